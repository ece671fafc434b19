"""Recipes that runs hold: keys that came later mean what was done before there were any."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protoseg_deploy.recipe.loading import load_recipe
from protoseg_deploy.recipe.schema import Recipe

_BEFORE: dict[tuple[str, str], Any] = {
    ("data", "labeled_draw"): "random",
    ("model", "separable"): False,
    ("model", "decoder_channels"): 256,
}
"""What earlier versions did that had no such key, or another default."""


def load_run_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe in the folder of a run.

    A run writes down every key there is. One that lacks a key comes from a version without it, see `_BEFORE`.

    Args:
        path: ``recipe.yaml`` of a run.
        overrides: as of `load_recipe`.

    Raises:
        RecipeError: as `load_recipe`.
        UsageError: as `load_recipe`.
    """
    return _with_unset(load_recipe(path, overrides), _BEFORE)


def with_keys_of(then: Recipe, recipe: Recipe) -> Recipe:
    """A recipe that leaves some of the keys in `_BEFORE` open, with what a run has that was started with it."""
    return _with_unset(recipe, {(section, key): getattr(getattr(then, section), key) for section, key in _BEFORE})


def _with_unset(recipe: Recipe, values: dict[tuple[str, str], Any]) -> Recipe:
    for (section, key), value in values.items():
        part = getattr(recipe, section)
        if key not in part.model_fields_set:
            recipe = recipe.model_copy(update={section: part.model_copy(update={key: value})})
    return recipe
