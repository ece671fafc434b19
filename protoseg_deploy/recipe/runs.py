"""Recipes that runs hold: keys that came later mean what was done before there were any."""

from collections.abc import Sequence
from pathlib import Path

from protoseg_deploy.recipe.loading import load_recipe
from protoseg_deploy.recipe.schema import Recipe


def load_run_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe in the folder of a run.

    A run writes down every key there is. One that lacks ``data.labeled_draw`` comes from a version that drew at random.

    Args:
        path: ``recipe.yaml`` of a run.
        overrides: as of `load_recipe`.

    Raises:
        RecipeError: as `load_recipe`.
        UsageError: as `load_recipe`.
    """
    recipe = load_recipe(path, overrides)
    return recipe if _draw_is_set(recipe) else _with_draw(recipe, "random")


def with_draw_of(then: Recipe, recipe: Recipe) -> Recipe:
    """A recipe that does not say how labelled images are drawn, with the draw of a run that was started with it."""
    return recipe if _draw_is_set(recipe) else _with_draw(recipe, then.data.labeled_draw)


def _draw_is_set(recipe: Recipe) -> bool:
    """Whether a recipe says how labelled images are drawn; otherwise it is as the newest version does."""
    return "labeled_draw" in recipe.data.model_fields_set


def _with_draw(recipe: Recipe, draw: str) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"labeled_draw": draw})})
