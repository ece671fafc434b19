"""YAML and command-line overrides to a checked Recipe; every fault at once, each with file, line and key."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.recipe.schema import Recipe, Section
from protoseg_deploy.recipe.shipped import shipped_recipe_names, shipped_recipe_path

Key = tuple[str, ...]


def load_recipe(source: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        source: a YAML file, or the name of a shipped recipe.
        overrides: ``KEY=VALUE`` strings with dotted keys; values are read as YAML.

    Raises:
        RecipeError: the file or an override has faults; all of them are listed.
        UsageError: there is no such recipe, or an override is not of the form KEY=VALUE.
    """
    path = find_recipe(source)
    tree, lines, faults = _read_yaml(path)
    origins = {key: f"{path}:{line}" for key, line in lines.items()}
    for override in overrides:
        key, value = _parse_override(override)
        _set(tree, key, value, override)
        origins[key] = "command line"
    return _validate(tree, str(path), origins, faults)


def recipe_from_dict(tree: Mapping[str, Any], source: str) -> Recipe:
    """Validate an already parsed recipe; `source` is named in errors."""
    return _validate(dict(tree), source, {}, [])


def dump_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML, readable by `load_recipe`."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted keys whose values differ between two recipes."""
    left, right = dict(_leaves(one.model_dump(mode="json"))), dict(_leaves(other.model_dump(mode="json")))
    return [".".join(key) for key in left | right if left.get(key) != right.get(key)]


def find_recipe(source: str | Path) -> Path:
    """The file behind a shipped name or a path; a folder of the same name does not hide a shipped recipe."""
    path = Path(source)
    names = shipped_recipe_names()
    if str(source) in names:
        return shipped_recipe_path(str(source))
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not a recipe", "Give a YAML file or the name of a shipped recipe.")
    if path.is_file():
        return path
    if path.suffix in {".yaml", ".yml"}:
        raise UsageError(f"no such recipe file: {path}")
    raise UsageError(
        f"no recipe named {str(source)!r}{did_you_mean(str(source), names)}",
        f"Shipped recipes: {', '.join(names)}. A file of your own ends in .yaml.",
    )


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """`` – did you mean X?`` or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" – did you mean {close[0]!r}?" if close else ""


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int], list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except UnicodeDecodeError as error:
        raise RecipeError(str(path), [f"not a text file: {error.reason} at byte {error.start}"]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise RecipeError(str(path), [f"{where}not valid YAML: {error.problem}"]) from None
    except yaml.YAMLError as error:
        first_line = str(error).splitlines()[0]
        raise RecipeError(str(path), [f"not a text file: {first_line}"]) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(tree, dict):
        raise RecipeError(str(path), ["a recipe is a mapping with the keys " + ", ".join(Recipe.model_fields)])
    lines: dict[Key, int] = {}
    faults: list[str] = []
    for key, line in _key_lines(node):
        if key in lines:
            faults.append(f"{path}:{line}: {'.'.join(key)} is set twice, first on line {lines[key]}: remove one")
        lines[key] = line
    return tree, lines, faults


def _key_lines(node: yaml.Node | None, prefix: Key = ()) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*prefix, str(key_node.value))
            yield key, key_node.start_mark.line + 1
            yield from _key_lines(value_node, key)


def _leaves(tree: Any, prefix: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, (*prefix, str(key)))
    else:
        yield prefix, tree


def _parse_override(override: str) -> tuple[Key, Any]:
    name, separator, text = override.partition("=")
    if not separator or not name.strip():
        raise UsageError(f"{override!r} is not an override", "Overrides look like train.steps=2000.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(value, str):
        value = _yaml_1_2_float(value)
    return tuple(name.strip().split(".")), value


def _yaml_1_2_float(text: str) -> float | str:
    """PyYAML follows YAML 1.1, to which ``1e-3`` is a string; to everybody else it is a number."""
    try:
        return float(text) if "e" in text.lower() else text
    except ValueError:
        return text


def _set(tree: dict[str, Any], key: Key, value: Any, override: str) -> None:
    node = tree
    for part in key[:-1]:
        child = node.setdefault(part, {})
        if child is None:
            child = node[part] = {}
        if not isinstance(child, dict):
            raise UsageError(f"{override!r}: {part} is not a section of the recipe")
        node = child
    node[key[-1]] = value


def _validate(tree: dict[str, Any], source: str, origins: Mapping[Key, str], faults: list[str]) -> Recipe:
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        faults = faults + [_fault(details, source, origins) for details in error.errors(include_url=False)]
        raise RecipeError(source, faults) from None
    if faults:
        raise RecipeError(source, faults)
    return recipe


def _fault(details: ErrorDetails, source: str, origins: Mapping[Key, str]) -> str:
    section, key = _section_at(tuple(str(part) for part in details["loc"]))
    where = next((origins[key[:n]] for n in range(len(key), 0, -1) if key[:n] in origins), source)
    name = ".".join(key) or "recipe"
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = list(section.model_fields)
        return f"{where}: unknown key {name}{did_you_mean(key[-1], known)} (known here: {', '.join(known)})"
    if kind == "missing":
        return f"{where}: {name} is missing"
    if kind == "literal_error":
        allowed = details.get("ctx", {}).get("expected", "")
        choices = [choice.strip(" '") for choice in allowed.replace(" or ", ",").split(",")]
        return f"{where}: {name}: {value!r} is not one of {allowed}{did_you_mean(str(value), choices)}"
    if kind == "value_error":
        return f"{where}: {name}: {details['msg'].removeprefix('Value error, ')}"
    return f"{where}: {name}: {details['msg'][0].lower()}{details['msg'][1:]}, got {value!r}"


def _section_at(location: tuple[str, ...]) -> tuple[type[Section], Key]:
    """The section model a fault lies in, and the key without pydantic's names of union members."""
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
