"""From a recipe to a trained run: data found and checked, the run started or resumed."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from protoseg_deploy.data import DataSets, find_data, with_measured_range
from protoseg_deploy.distributed import world
from protoseg_deploy.models import require_buildable
from protoseg_deploy.recipe import Recipe, class_table
from protoseg_deploy.training.loop import MethodBuilder, Trainer
from protoseg_deploy.training.processes import process_group, wait_for_others
from protoseg_deploy.training.resuming import recipe_to_resume
from protoseg_deploy.training.run import Run, resolved_recipe
from protoseg_deploy.training.trackers import require_trackers

DataCheck = Callable[[Recipe, DataSets], Sequence[str]]


def train(
    recipe: Recipe,
    folder: Path,
    build_method: MethodBuilder,
    *,
    resume: bool = False,
    extend_to: int | None = None,
    take_over: bool = False,
    quiet: bool = False,
    check: DataCheck | None = None,
) -> dict[str, Any]:
    """Train a recipe into a run folder and return the summary of the run.

    Started by ``torchrun``, every process calls this with the same arguments.

    Args:
        recipe: as loaded.
        folder: new or empty; with `resume` the folder of an interrupted run.
        build_method: normally `methods.build_method`.
        resume: continue from the newest checkpoint.
        extend_to: resume and train to this many steps, more than the run has; start and ramp schedules stay where they
            were.
        take_over: resume a run although a process on another host may be training it.
        quiet: show no progress.
        check: checks recipe and data before anything is written; raises where they cannot be used, and returns what
            deserves a warning.
    """
    run = Run(folder)
    with process_group(recipe.train), ExitStack() as stack:
        stack.enter_context(run.saying_what_is_safe())
        if world().is_first and (run.exists() or not (resume or extend_to is not None)):
            stack.enter_context(run.owned(take_over=take_over))
        recipe = resolved_recipe(recipe, class_table(recipe.data))
        if resume or extend_to is not None:
            recipe = recipe_to_resume(run, recipe, extend_to)
            return _train(recipe, run, build_method, resume=True, quiet=quiet, check=check)
        return _train(recipe, run, build_method, resume=False, quiet=quiet, check=check)


def _train(
    recipe: Recipe, run: Run, build_method: MethodBuilder, *, resume: bool, quiet: bool, check: DataCheck | None
) -> dict[str, Any]:
    drawn = run.drawn() if resume else None
    if world().is_first and not (resume and run.checkpoints.paths()):
        require_buildable(recipe.model)  # before any data is read
    if world().is_first:
        require_trackers(recipe.train.trackers)
    sets = find_data(recipe.data, need_unlabeled=recipe.data.unlabeled.is_set, need_val=True, drawn=drawn)
    warnings: Sequence[str] = ()
    if resume:
        run.require_same_images(recipe, sets)
    elif world().is_first:
        run.refuse_to_overwrite()
    recipe = with_measured_range(recipe, sets)
    if not resume and world().is_first and check is not None:
        warnings = check(recipe, sets)
    wait_for_others()
    fresh = not (resume and run.checkpoints.paths())
    trainer = Trainer(recipe, run, sets, build_method, initial_weights=fresh, quiet=quiet)
    trainer.notes += [f"warning: {warning}" for warning in warnings]
    if resume:
        trainer.resume()
        if trainer.step >= recipe.train.steps:
            return trainer.already_done()
    elif world().is_first:
        run.start(recipe, sets)
    wait_for_others()
    return trainer.train()
