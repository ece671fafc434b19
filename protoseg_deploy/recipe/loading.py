"""YAML and command-line overrides to a checked Recipe; all errors at once, each with file, line and key."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.files import open_regular, path_fault
from protoseg_deploy.recipe.schema import Recipe
from protoseg_deploy.recipe.shipped import shipped_recipe_names, shipped_recipe_path
from protoseg_deploy.recipe.types import Section
from protoseg_deploy.recipe.yaml_text import (
    MOST_BYTES,
    Key,
    NotYaml,
    YamlDocument,
    YamlFault,
    decode_yaml,
    dump_yaml,
    read_yaml,
)
from protoseg_deploy.text import shown

_MOST_PARTS = 10
"""Of a dotted key."""
_MOST_FAULTS = 50
_LONGEST_WORD = 100
"""For which similar ones are looked for."""


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of a shipped recipe.
        overrides: ``KEY=VALUE`` strings with dotted keys; values are read as YAML.

    Raises:
        RecipeError: the file or an override has errors; all of them are listed.
        UsageError: there is no such recipe, or an override is not of the form KEY=VALUE.
    """
    path = find_recipe(source)
    document = _read(path)
    written = dict(document.written)
    origins = {key: f"{path}:{line}" for key, line in document.lines.items()}
    faults = [
        f"{path}:{line}: {'.'.join(key)} is set twice, first on line {document.lines[key]}: remove one"
        for key, line in document.repeated
    ]
    for override in overrides:
        key, value = _parse_override(override)
        _set(document.tree, key, value.tree, override)
        origins[key] = "command line"
        written |= {(*key, *below): text for below, text in value.written.items()}
    return _validate(document.tree, str(path), origins, written, faults)


def recipe_from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """Validate an already parsed recipe; `source` is named in errors."""
    return _validate(dict(tree), source, {}, {}, [])


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML, readable by `load_recipe`."""
    return dump_yaml(recipe.model_dump(mode="json"))


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted keys whose values differ between two recipes."""
    left, right = dict(_leaves(one.model_dump(mode="json"))), dict(_leaves(other.model_dump(mode="json")))
    return [".".join(key) for key in left | right if left.get(key) != right.get(key)]


def value_of(recipe: Recipe, key: str) -> Any:
    """What a recipe has for a dotted key; None where it has no such key."""
    return dict(_leaves(recipe.model_dump(mode="json"))).get(tuple(key.split(".")))


def find_recipe(source: str | Path) -> Path:
    """The file behind a shipped name or a path; a folder of the same name does not hide a shipped recipe."""
    names = shipped_recipe_names()
    if str(source) in names:
        return shipped_recipe_path(str(source))
    if fault := path_fault(str(source)):
        raise UsageError(f"no recipe named {shown(str(source))}: {fault}")
    path = Path(source)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a recipe", "Give a YAML file or the name of a shipped recipe.")
    if path.exists():
        return path
    if path.suffix in {".yaml", ".yml"}:
        raise UsageError(f"no such recipe file: {path}")
    raise UsageError(
        f"no recipe named {shown(str(source))}{did_you_mean(str(source), names)}",
        f"Shipped recipes: {', '.join(names)}. A file of your own ends in .yaml.",
    )


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`` – did you mean X?`` or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5) if len(word) <= _LONGEST_WORD else []
    return f" – did you mean {close[0]!r}?" if close else ""


def read_recipe_text(path: Path) -> str:
    """A recipe file as written.

    Raises:
        RecipeError: it is not text, or larger than a recipe can be.
        UsageError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    if len(content) > MOST_BYTES:
        raise RecipeError(str(path), [f"larger than {MOST_BYTES >> 10} KiB: not a recipe"])
    try:
        return decode_yaml(content)
    except YamlFault as fault:
        raise RecipeError(str(path), [_located(fault)]) from None


def _read(path: Path) -> YamlDocument:
    text = read_recipe_text(path)
    try:
        document = read_yaml(text)
    except YamlFault as fault:
        raise RecipeError(str(path), [_located(fault)]) from None
    if not isinstance(document.tree, dict):
        raise RecipeError(str(path), ["a recipe is a mapping with the keys " + ", ".join(Recipe.model_fields)])
    return document


def _located(fault: YamlFault) -> str:
    where = f"line {fault.line}" + (f", column {fault.column}" if fault.column else "")
    return f"{where}: {fault.what}" if fault.line else fault.what


def _leaves(tree: Any, prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*prefix, str(key)))
    else:
        yield prefix, tree


def _parse_override(override: str) -> tuple[Key, YamlDocument]:
    name, separator, text = override.partition("=")
    key = tuple(name.strip().split("."))
    if not separator or not all(part.strip() for part in key):
        raise UsageError(f"{shown(override)} is not an override", "Overrides look like train.steps=2000.")
    if len(key) > _MOST_PARTS or len(text) > MOST_BYTES:
        raise UsageError(f"{shown(override)} is too long for an override")
    try:
        return key, read_yaml(text)
    except NotYaml:  # such as {stem}_mask.png
        return key, YamlDocument(text)
    except YamlFault as fault:
        raise RecipeError("command line", [f"{'.'.join(key)}: {fault.what}"]) from None


def _set(tree: dict[str, Any], key: Key, value: Any, override: str) -> None:
    node = tree
    for part in key[:-1]:
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise UsageError(f"{shown(override)}: {part} is not a section of the recipe")
        node = child
    node[key[-1]] = value


_RETIRED = {
    ("method", "adaptive_thresholds"): (False, "thresholds for each class brought no gain"),
}
"""Keys of earlier versions: the value that did nothing, with which runs have them, and why the others are gone."""


def _without_retired(tree: dict[Any, Any], origins: Mapping[Key, str], source: str) -> tuple[dict[Any, Any], list[str]]:
    """A copy without keys that do nothing any more, and errors for those that would have done something."""
    faults = []
    for (section, name), (idle, why) in _RETIRED.items():
        found = tree.get(section)
        if isinstance(found, dict) and name in found:
            if found[name] != idle:
                where = origins.get((section, name), source)
                faults.append(f"{where}: {section}.{name} was removed: {why}; leave it out")
            tree = tree | {section: {key: value for key, value in found.items() if key != name}}
    return tree, faults


def _validate(
    tree: dict[Any, Any], source: str, origins: Mapping[Key, str], written: Mapping[Key, str], faults: list[str]
) -> Recipe:
    tree, retired = _without_retired(tree, origins, source)
    faults = faults + retired
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        found = error.errors(include_url=False)
        faults = faults + [_fault(details, source, origins, written) for details in found[:_MOST_FAULTS]]
        faults += [f"… and {len(found) - _MOST_FAULTS} more"] if len(found) > _MOST_FAULTS else []
        raise RecipeError(source, list(dict.fromkeys(faults))) from None
    if faults:
        raise RecipeError(source, faults)
    return recipe


def _fault(details: ErrorDetails, source: str, origins: Mapping[Key, str], written: Mapping[Key, str]) -> str:
    section, key = _section_at(tuple(str(part) for part in details["loc"]))
    where = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), source)
    name = ".".join(key) or "recipe"
    kind, value = details["type"], details["input"]
    if kind in {"extra_forbidden", "invalid_key"}:
        known = list(section.model_fields)
        return f"{where}: unknown key {name}{did_you_mean(key[-1], known)} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"{where}: {name} is missing"
    if kind == "literal_error":
        allowed = details.get("ctx", {}).get("expected", "")
        choices = [choice.strip(" '") for choice in allowed.replace(" or ", ",").split(",")]
        return f"{where}: {name}: {shown(value)} is not one of {allowed}{did_you_mean(str(value), choices)}"
    if kind == "value_error":
        return f"{where}: {name}: {details['msg'].removeprefix('Value error, ')}"
    if kind == "string_type" and (text := written.get(key)):
        return f"{where}: {name}: YAML reads {text} as {_in_yaml(value)}: write it in quotes, '{text}'"
    return f"{where}: {name}: {details['msg'][0].lower()}{details['msg'][1:]}, got {shown(value)}"


def _in_yaml(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"the number {value}"


def _section_at(location: tuple[str, ...]) -> tuple[type[Section], Key]:
    """The section model an error lies in, and the key without pydantic's names of union members."""
    section: type[Section] = Recipe
    for depth, part in enumerate(location):
        field = section.model_fields.get(part)
        if field is None:
            return section, location[: depth + 1]
        inner = next(
            (kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)),
            None,
        )
        if inner is None:
            rest = tuple(part for part in location[depth + 1 :] if part.isdigit())
            return section, (*location[: depth + 1], *rest)
        section = inner
    return section, location


def _is_section(kind: Any) -> bool:
    return get_origin(kind) is None and isinstance(kind, type) and issubclass(kind, BaseModel)
