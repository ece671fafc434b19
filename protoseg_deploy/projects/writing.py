"""The files of a project: recipe, classes, lists, what to do next."""

import json
import shlex
import textwrap
from collections.abc import Sequence
from typing import Any

from protoseg_deploy.projects.choosing import Choice

_WIDTH = 118
_HEAD = """\
# Made by `protoseg init`. Every value that it chose is followed by the reason; `protoseg recipe explain` describes all
# keys. Change what you know better, and see with `protoseg check PROJECT` whether it fits.
"""


def recipe_text(choices: Sequence[Choice]) -> str:
    """A recipe in YAML, keys of one section together, each with its reason as a comment."""
    tree: dict[str, Any] = {}
    reasons: dict[tuple[str, ...], str] = {}
    for choice in choices:
        *sections, key = choice.key.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
        place[key] = choice.value
        reasons[*sections, key] = choice.reason
    return _HEAD + "\n".join(_lines(tree, (), reasons)) + "\n"


def _lines(tree: dict[str, Any], path: tuple[str, ...], reasons: dict[tuple[str, ...], str]) -> list[str]:
    lines: list[str] = []
    indent = "  " * len(path)
    for key, value in tree.items():
        reason = reasons.get((*path, key), "")
        if isinstance(value, dict) and (*path, key) not in reasons:
            lines += [f"{indent}{key}:", *_lines(value, (*path, key), reasons)]
            continue
        line = f"{indent}{key}: {_flow(value)}"
        comment = f" # {reason}" if reason else ""
        if len(line) + len(comment) <= _WIDTH:
            lines.append(line + comment)
        else:
            lines += [
                *textwrap.wrap(reason, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "),
                line,
            ]
    return lines


def _flow(value: Any) -> str:
    """A value on one line; JSON is YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def next_steps(project: str, minutes: float | None, remarks: Sequence[str]) -> str:
    """``NEXT.md``."""
    said = f"About {_duration(minutes)} on this machine. " if minutes is not None else ""
    doubts = "".join(f"- {remark}\n" for remark in remarks)
    place = shlex.quote(project)
    lines = [
        "# Next steps\n",
        "```",
        f"protoseg check {place}",
        f"protoseg train {place}",
        f"protoseg distill {place}/runs/first --run {place}/runs/first-student",
        f"protoseg export {place}/runs/first-student --bundle {place}/bundles/first-student --precision fp32,int8",
        "```\n",
        f"`train`: {said}Its run is in `runs/first`; after an interruption the same command goes on.",
        "`distill` makes a network with a linear head only; with `model.backbone=NAME`, a smaller one. `export` writes",
        "a bundle, and only if it still segments the validation images.\n",
        "`recipe.yaml` says why each value was chosen, `lists/` which image is used for what. `classes.json` names the",
        "classes: rename them there before training.",
    ]
    return "\n".join(lines) + "\n" + (f"\n## Worth a look\n\n{doubts}" if doubts else "")


def _duration(minutes: float) -> str:
    return f"{max(1, round(minutes))} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
