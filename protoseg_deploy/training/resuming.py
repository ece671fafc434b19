"""Which recipe a resumed run goes on with, and which changes of it are refused."""

from protoseg_deploy.errors import UsageError
from protoseg_deploy.recipe import (
    MOST_STEPS,
    Recipe,
    differing_keys,
    load_run_recipe,
    resumable_keys,
    value_of,
    with_keys_of,
)
from protoseg_deploy.text import shown
from protoseg_deploy.training.run import Run

_LENGTH = frozenset({"train.steps", "train.extended_from"})


def recipe_to_resume(run: Run, recipe: Recipe, extend_to: int | None = None) -> Recipe:
    """The recipe a run resumes with, which is its own but for keys that may change.

    Args:
        recipe: resolved; of an extended run it may still have the steps from before.
        extend_to: lengthen the run to this many steps.

    Raises:
        UsageError: there is no run, it cannot be resumed, or the recipe is not the one it was started with.
    """
    if not run.exists():
        raise UsageError(f"{run.folder} holds no run to resume", "Start one without --resume and --extend-to.")
    then, trained = run.recipe(), bool(run.checkpoints.paths())
    recipe = with_keys_of(then, recipe)
    recipe = with_measured_range_of(then, recipe)
    if run.summary_path.is_file() and not trained:
        raise UsageError(f"{run.folder} is finished and keeps no checkpoint: there is nothing to resume")
    # Before the first checkpoint the initial weights still decide what is computed.
    allowed = resumable_keys() - (set() if trained else {"model.weights"})
    _require_unchanged(run, then, allowed, extend_to)
    if extend_to is not None:
        _require_extensible(run, then, extend_to)
        recipe = _with_length(recipe, extend_to, then.train.planned_steps)
    elif recipe.train.extended_from is None and recipe.train.steps == then.train.extended_from:
        recipe = _with_length(recipe, then.train.steps, then.train.planned_steps)
    changed = set(differing_keys(then, recipe)) - allowed - (_LENGTH if extend_to is not None else set())
    if changed:
        longer = " --extend-to makes it longer." if "train.steps" in changed else ""
        raise UsageError(
            f"{run.folder} was started with another recipe; these keys differ: {', '.join(sorted(changed))}",
            f"Resume with the recipe it has ({run.recipe_path}), or start a new run. "
            f"Only these may change: {', '.join(sorted(allowed))}.{longer}",
        )
    return recipe


def _require_extensible(run: Run, then: Recipe, extend_to: int) -> None:
    if extend_to > MOST_STEPS:
        raise UsageError(f"--extend-to {extend_to}: a run has at most {MOST_STEPS:,} steps")
    if extend_to <= then.train.steps:
        raise UsageError(
            f"--extend-to {extend_to}: {run.folder} already has {then.train.steps} steps",
            "Give a larger number; --resume finishes an interrupted run.",
        )
    if not run.checkpoints.paths():
        raise UsageError(
            f"{run.folder} keeps no checkpoint: it cannot be extended", "Start a new run with more train.steps."
        )


def _require_unchanged(run: Run, recipe: Recipe, allowed: frozenset[str], extend_to: int | None) -> None:
    """Raises UsageError where the recipe in the folder is not what was written there; earlier runs have no copy."""
    if not run.recipe_copy.is_file():
        return
    written = load_run_recipe(run.recipe_copy)
    changed = set(differing_keys(written, recipe)) - allowed
    if written.train.steps == extend_to:  # killed between the two when it was extended before
        changed -= _LENGTH
    if changed:
        values = ", ".join(f"{key}: {shown(value_of(written, key))}" for key in sorted(changed))
        raise UsageError(
            f"{run.recipe_path} was changed after the run was started; these keys differ: {', '.join(sorted(changed))}",
            f"Put back what the run was started with ({values}), as in {run.recipe_copy}; or start a new run with "
            f"the changed recipe: protoseg train {run.recipe_path} --run NEW. "
            f"Only these may change: {', '.join(sorted(allowed))}.",
        )


def _with_length(recipe: Recipe, steps: int, planned: int) -> Recipe:
    length = {"steps": steps, "extended_from": planned}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=length)})


def with_measured_range_of(then: Recipe, recipe: Recipe) -> Recipe:
    """Percentiles that the run has measured are the numbers it measured."""
    if recipe.data.value_range is None or recipe.data.value_range != then.data.value_range_from:
        return recipe
    measured = {"value_range": then.data.value_range, "value_range_from": then.data.value_range_from}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=measured)})
