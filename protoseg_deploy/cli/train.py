"""``protoseg train``."""

import math
from dataclasses import asdict
from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table, take_over_option
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.text import one_line

_SHOWN = 8


@click.command(name="train", cls=Verb)
@click.argument("recipe", metavar="[RECIPE]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--run", "--run-folder", "folder", type=PATH, help="Folder of the run; new, or one to go on with.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run exactly where it stopped.")
@click.option("--continue", "go_on", is_flag=True, help="Start the run, or resume it where it has been started.")
@click.option(
    "--extend-to",
    type=click.IntRange(min=1),
    metavar="N",
    help="Lengthen a run to N steps, finished or not, and resume.",
)
@take_over_option
@click.option("--replay", type=PATH, metavar="FILE", help="Repeat a skipped step that a run has kept, and look at it.")
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

    RECIPE is a shipped name or a YAML file; a run that goes on has its own. The data is checked before the first step.
    Ctrl-C and SIGTERM save the run; it can be resumed after any kind of interruption.

    \b
    protoseg train mine.yaml --run runs/mine
    protoseg train mine.yaml --run runs/mine train.max_hours=8
    protoseg train --run runs/mine --resume
    protoseg train --run runs/mine --extend-to 20000
    protoseg train camvid-mobilenetv2 --run runs/base method.name=fixmatch train.seed=1
    torchrun --nproc-per-node 2 --max-restarts 3 -m protoseg_deploy train mine.yaml \\
        --run-folder runs/mine --continue
    protoseg train --replay runs/mine/skipped-step-00001234.pt
    tensorboard --logdir runs

    --continue is for machines that may go away, and for torchrun, which runs the same command again after a failure;
    once a run has been started it goes with --extend-to, too. (torchrun takes --run for an abbreviation of its own
    --run-path: there it is --run-folder.)

    A run has one writer at a time: a second process is refused, and told which one has it. The lock of a killed process
    ends with it; of one on another host, a minute after its last sign of life, or at once with --take-over.

    --extend-to keeps starts and ramps, which are shares of the steps, where they were; the learning rate follows the
    schedule of the new length from the step the run has come to.

    A run that goes on computes what it would have computed. These keys alone may be given new values:
    data.cache_mib, data.max_unreadable_share, data.root, model.weights, train.checkpoint_every, train.device,
    train.eval_batch, train.log_every, train.max_hours, train.max_skipped_steps, train.timeout_s,
    train.workers.
    """
    from protoseg_deploy.data import check_before_training
    from protoseg_deploy.methods import build_method
    from protoseg_deploy.recipe import load_recipe, load_run_recipe
    from protoseg_deploy.training import OutOfTime, Run, train
    from protoseg_deploy.training.records import finite

    if replay is not None:
        if recipe is not None or folder is not None:
            raise click.UsageError("--replay stands alone: the run is that of the file.")
        _replay(replay, as_json)
        return
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
        raise click.UsageError(f"Missing argument 'RECIPE': {folder} holds no run that could go on with its own.")
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
    rows = [
        ("best", _percent(summary["best_miou_percent"]), summary["best_step"], folder / "best.safetensors"),
        ("last", _percent(summary["last_miou_percent"]), summary["steps"], folder / "last.safetensors"),
    ]
    print_table(["network", "mIoU %", "step", "file"], rows)
    click.echo(f"Next: protoseg export {folder} --bundle bundles/{folder.name}")


def _as_json(value: float) -> float | str:
    """JSON has no word for what is not a number."""
    return value if math.isfinite(value) else str(value)


def _percent(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _replay(file: Path, as_json: bool) -> None:
    from protoseg_deploy.training.replay import replay

    report = replay(file)
    if as_json:
        figures = {**asdict(report), "losses": {name: _as_json(value) for name, value in report.losses.items()}}
        print_json({**figures, "largest_input": _as_json(report.largest_input)})
        return
    print_table(["loss", "value"], [(name, f"{value:.4g}") for name, value in report.losses.items()], f"{file}")
    if report.first_layer is None:
        click.echo(
            f"Every layer's output is finite; the largest value that goes into one is {report.largest_input:.4g}."
        )
    else:
        click.echo(f"First output that is not finite: {report.first_layer}, inputs up to {report.largest_input:.4g}.")
    for title, names in (
        ("Parameters with gradients that are not finite", report.parameters),
        ("Images that break the network by themselves", report.images),
        ("All images of the step", report.files),
    ):
        click.echo(f"{title}: {len(names)}")
        for name in names[:_SHOWN]:
            click.echo(f"  {one_line(name)}")
        if len(names) > _SHOWN:
            click.echo(f"  … and {len(names) - _SHOWN} more")
