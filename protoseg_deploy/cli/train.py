"""``protoseg train``."""

import math
from pathlib import Path
from typing import Any

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    bundle_of,
    json_option,
    print_json,
    print_table,
    project_at,
    take_over_option,
)
from protoseg_deploy.cli.verb import Verb

_SHOWN = 8


@click.command(name="train", cls=Verb, short_help="Train a recipe into a run folder.")
@click.argument("recipe", metavar="[RECIPE]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run", "--run-folder", "folder", type=PATH, help="Run folder, new or to be resumed.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run exactly where it stopped.")
@click.option("--continue", "go_on", is_flag=True, help="Start the run, or resume it if it exists.")
@click.option(
    "--extend-to",
    type=click.IntRange(min=1),
    metavar="N",
    help="Extend a run, finished or not, to N steps and resume it.",
)
@take_over_option
@click.option("--replay", type=PATH, hidden=True)  # its name before it was a command
@json_option
def command(
    recipe: str | None,
    overrides: tuple[str, ...],
    folder: Path | None,
    resume: bool,
    go_on: bool,
    extend_to: int | None,
    take_over: bool,
    replay: Path | None,
    as_json: bool,
) -> None:
    """Train RECIPE into a run folder.

    RECIPE is the name of a shipped recipe, a YAML file, or a project of `protoseg init`, whose run is started or goes
    on in PROJECT/runs/first; a resumed run uses its own recipe. The data is checked before the first step. Ctrl-C and
    SIGTERM save the run; it can be resumed after any interruption.

    \b
    protoseg train project
    protoseg train mine.yaml --run runs/mine
    protoseg train mine.yaml --run runs/mine train.max_hours=8
    protoseg train --run runs/mine --resume
    protoseg train --run runs/mine --extend-to 20000
    protoseg train camvid-mobilenetv2 --run runs/base method.name=fixmatch train.seed=1
    torchrun --nproc-per-node 2 --max-restarts 3 -m protoseg_deploy train mine.yaml \\
        --run-folder runs/mine --continue
    tensorboard --logdir runs

    --continue is for preemptible machines and for torchrun, which repeats the command after a failure; for an existing
    run it can be combined with --extend-to. (With torchrun, use --run-folder: it would parse --run as an abbreviation
    of its own --run-path.)

    A run has one writer at a time: a second process is refused with an error that names the first. The lock of a killed
    process is released at once; that of a process on another host expires one minute after its last heartbeat, or at
    once with --take-over.

    --extend-to keeps start and ramp schedules, which are shares of the steps, at their original positions; from the
    current step on, the learning rate follows the longer schedule.

    A resumed run computes the same as an uninterrupted one. Only keys that do not affect the result may be given new
    values: `protoseg recipe explain` marks them.
    """
    from protoseg_deploy.data import check_before_training
    from protoseg_deploy.methods import build_method
    from protoseg_deploy.recipe import load_recipe, load_run_recipe
    from protoseg_deploy.training import OutOfTime, Run, train
    from protoseg_deploy.training.records import finite

    if replay is not None:
        from protoseg_deploy.cli.replay import show_replay

        if recipe is not None or folder is not None:
            raise click.UsageError("--replay stands alone: the run is that of the file.")
        show_replay(replay, as_json)
        return
    project = None if recipe is None else project_at(Path(recipe))
    if project is not None:
        recipe, go_on, folder = str(project / "recipe.yaml"), go_on or not folder, folder or project / "runs" / "first"
    if folder is None:
        raise click.UsageError("Missing option '--run'.")
    run = Run(folder)
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        overrides, recipe = (recipe, *overrides), None
    if go_on:
        resume = resume or run.exists()
    if resume and extend_to is not None and run.exists() and run.recipe().train.steps == extend_to:
        extend_to = None  # done before the run was interrupted
    if recipe is None and not ((resume or extend_to is not None) and run.exists()):
        raise click.UsageError(f"Missing argument 'RECIPE': {folder} holds no run to resume.")
    try:
        summary = train(
            load_recipe(recipe, overrides) if recipe else load_run_recipe(run.recipe_path, overrides),
            folder,
            build_method,
            resume=resume,
            extend_to=extend_to,
            take_over=take_over,
            check=check_before_training,
        )
    except OutOfTime as stopped:
        if as_json:
            print_json({"stopped": stopped.message})
        raise
    if as_json:
        print_json(finite(summary))
        return
    _print_networks(summary, run.best, run.last)
    in_project = f"distill {folder} --run {folder}-student"
    click.echo(f"Next: protoseg {f'export {folder} {bundle_of(folder)}' if project is None else in_project}")


def _print_networks(summary: dict[str, Any], best: Path, last: Path) -> None:
    rows = [
        ("best", _percent(summary["best_miou_percent"]), summary["best_step"], best),
        ("last", _percent(summary["last_miou_percent"]), summary["steps"], last),
    ]
    print_table(["network", "mIoU %", "step", "file"], rows)


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"
