"""What runs were told: keys that differ from their defaults, or from run to run."""

from dataclasses import dataclass

import yaml

from protoseg_deploy.recipe import Recipe, explained_keys, value_of

_LONGEST = 300


@dataclass(frozen=True)
class RecipeLine:
    """One key of the recipes of a report."""

    key: str
    meaning: str
    default: str
    """As YAML; empty for what has to be given."""
    values: tuple[str, ...]
    """Of each run, as YAML."""
    changed: tuple[bool, ...]
    """Of each run: whether it is not the default."""

    @property
    def differs(self) -> bool:
        """Between the runs."""
        return len(set(self.values)) > 1


def recipe_lines(recipes: tuple[Recipe, ...]) -> tuple[RecipeLine, ...]:
    """Keys of which one recipe at least has something else than the default, in the order of a recipe."""
    lines = []
    for key in explained_keys():
        if key.values == "section":
            continue
        default = "" if key.default == "none, required" else key.default
        values = tuple(_text_of(recipe, key.key, default) for recipe in recipes)
        changed = tuple(value != default for value in values)
        if any(changed):
            lines.append(RecipeLine(key.key, key.meaning, default, values, changed))
    return tuple(lines)


def _text_of(recipe: Recipe, key: str, default: str) -> str:
    section, _, _ = key.rpartition(".")
    part: object = recipe
    for name in section.split("."):
        part = getattr(part, name)
        if part is None:  # a section that is off: its keys say nothing
            return default
    value = value_of(recipe, key)
    if value is None:
        return "absent"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("\n...")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
