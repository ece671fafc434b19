"""What every key of a recipe means, read from the models themselves."""

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from protoseg_deploy.recipe.schema import Recipe
from protoseg_deploy.recipe.types import Choice, Color, Mark

_NUMBERS = {int: "integer", float: "number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class KeyText:
    """One key as people read it."""

    key: str
    """Dotted."""
    meaning: str
    values: str
    """Type and range, or the choices."""
    default: str
    """As YAML; empty for a section and for what has to be given."""
    unit: str
    written_by: str
    """The command that sets it; empty: the user."""
    may_change: bool
    """See `Mark`."""

    def facts(self) -> str:
        """All but its name and meaning, in one line."""
        if self.values == "section" and not self.default:
            return ""
        parts = [self.values if not self.unit else f"{self.values}, in {self.unit}"]
        parts.append(f"written by `{self.written_by}`" if self.written_by else f"default: {self.default or 'none'}")
        parts += ["may change on --resume"] if self.may_change else []
        return "; ".join(parts)


def explained_keys() -> tuple[KeyText, ...]:
    """Every key, sections before what is in them, in the order of a resolved recipe."""
    return tuple(_keys(Recipe, ""))


def reference() -> str:
    """``docs/recipe.md``."""
    lines = [
        "# Recipe keys",
        "",
        "All recipe keys, with meaning, type, range and default. Only `data.classes`, `data.labeled` and, for every",
        "method but `supervised`, `data.unlabeled` are required; `train` also needs `data.val`.",
        "`protoseg recipe explain [KEY]` prints the same text, and `protoseg recipe explain --markdown` this page.",
        "",
        "Keys marked *may change on --resume* may have a new value when a run is resumed; all others affect the",
        "result.",
    ]
    for key in explained_keys():
        if key.values == "section" and "." not in key.key:
            lines += ["", f"## `{key.key}`", "", key.meaning, "", "| Key | Meaning | Values |", "|---|---|---|"]
        else:
            facts = key.facts().replace("|", "\\|")
            lines.append(f"| `{key.key}` | {_in_markdown(key.meaning)} | {facts} |")
    return "\n".join(lines) + "\n"


def _in_markdown(text: str) -> str:
    return text.replace("``", "`").replace("|", "\\|")


def resumable_keys() -> frozenset[str]:
    """Keys that may differ between a run and its resumption: they do not change what is computed."""
    return frozenset(key.key for key in explained_keys() if key.may_change)


def _keys(section: type[BaseModel], prefix: str) -> Iterator[KeyText]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        inner = _section_of(field.annotation)
        marks = list(_marks(field))
        yield KeyText(
            key=key,
            meaning=" ".join((field.description or "").split()),
            values="section" if inner else _values(field.annotation, field.metadata),
            default="" if inner and field.default is not None else _default(field),
            unit=next((mark.unit for mark in marks if mark.unit), ""),
            written_by=next((mark.written_by for mark in marks if mark.written_by), ""),
            may_change=any(mark.may_change for mark in marks),
        )
        if inner:
            yield from _keys(inner, f"{key}.")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and get_origin(kind) is None and issubclass(kind, BaseModel):
            return kind
    return None


def _marks(field: FieldInfo) -> Iterator[Mark]:
    yield from (mark for mark in field.metadata if isinstance(mark, Mark))


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "none, required"
    if field.default is None:
        return "absent"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    return yaml.safe_dump(value, default_flow_style=True, width=200).removesuffix("\n...\n").strip()


def _values(annotation: Any, metadata: list[Any]) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        return _values(inner, [*metadata, *extra])
    if origin in (Union, types.UnionType):
        parts = [_values(part, metadata) for part in get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(str(choice) for choice in get_args(annotation))
    if origin in (list, tuple):
        return _sequence(origin, get_args(annotation))
    if origin is dict:
        return "mapping of " + " to ".join(_values(part, []) for part in get_args(annotation))
    if choice := next((item for item in metadata if isinstance(item, Choice)), None):
        return ", ".join(choice.names())
    return " ".join(filter(None, (_NUMBERS.get(annotation, str(annotation)), _range(metadata))))


def _sequence(origin: type, arguments: tuple[Any, ...]) -> str:
    if arguments == get_args(get_args(Color)[0]):
        return "RGB colour"
    if origin is list or arguments[-1] is Ellipsis:
        return f"list of {_values(arguments[0], [])}"
    return f"[{', '.join(_values(part, []) for part in arguments)}]"


def _range(metadata: list[Any]) -> str:
    """``from 0 to 1``: bounds that say something; those beyond any use are left out."""
    bounds: dict[str, float] = {}
    for item in _constraints(metadata):
        bounds |= {name: getattr(item, name) for name in ("ge", "gt", "le", "lt") if hasattr(item, name)}
    low = high = ""
    if "ge" in bounds:
        low = "above 0" if bounds["ge"] == _TINY else f"from {bounds['ge']:g}"
    elif "gt" in bounds:
        low = f"above {bounds['gt']:g}"
    if bounds.get("le", _HUGE) < _HUGE:
        high = f"to {bounds['le']:g}"
    elif bounds.get("lt", _HUGE) < _HUGE:
        high = f"below {bounds['lt']:g}"
    return " ".join(filter(None, (low, high)))


_TINY = 1e-12
_HUGE = 1e7


def _constraints(metadata: list[Any]) -> Iterator[Any]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)
