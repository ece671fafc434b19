"""A recipe with what each of its keys means, from the docstrings of the schema."""

import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from protoseg_deploy.recipe.schema import Recipe
from protoseg_deploy.recipe.yaml_text import dump_yaml

_WIDTH = 120


def explained_recipe(recipe: Recipe) -> str:
    """The complete recipe as YAML, readable by `load_recipe`, with a comment before each key."""
    return "\n".join(_lines(recipe, "")) + "\n"


def _lines(section: BaseModel, indent: str) -> Iterator[str]:
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        text = field.description or type(value).__doc__ or ""
        yield from _comment(text + _choices(field.annotation), indent)
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")
        else:
            yield textwrap.indent(dump_yaml({name: values[name]}), indent).rstrip("\n")


def _comment(text: str, indent: str) -> list[str]:
    prefix = f"{indent}# "
    return textwrap.wrap(
        " ".join(text.replace("``", "`").split()),
        _WIDTH,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _choices(annotation: Any) -> str:
    """`` One of: sgd, adamw.`` where the values of a key are a few words."""
    return f" One of: {', '.join(map(str, get_args(annotation)))}." if get_origin(annotation) is Literal else ""
