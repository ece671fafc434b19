"""``protoseg replay``: analyse a step whose loss was NaN or infinite."""

import math
from dataclasses import asdict
from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.text import one_line

_SHOWN = 8


@click.command(name="replay", cls=Verb, short_help="Repeat a skipped training step and analyse it.")
@click.argument("file", type=PATH)
@json_option
def command(file: Path, as_json: bool) -> None:
    """Repeat the step in FILE, which training saves after too many steps in a row with a NaN or infinite loss.

    The report names the first layer with a non-finite output, the parameters with non-finite gradients, and the images
    that cause non-finite outputs on their own. FILE must be in its run folder.

    \b
    protoseg replay runs/mine/skipped-step-00001234.pt
    """
    show_replay(file, as_json)


def show_replay(file: Path, as_json: bool) -> None:
    """Repeat the step and print what it shows."""
    from protoseg_deploy.training.replay import replay

    report = replay(file)
    if as_json:
        figures = {**asdict(report), "losses": {name: _as_json(value) for name, value in report.losses.items()}}
        print_json({**figures, "largest_input": _as_json(report.largest_input)})
        return
    print_table(["loss", "value"], [(name, f"{value:.4g}") for name, value in report.losses.items()], f"{file}")
    if report.first_layer is None:
        click.echo(f"Every layer's output is finite; the largest layer input is {report.largest_input:.4g}.")
    else:
        click.echo(f"First non-finite output: {report.first_layer}, inputs up to {report.largest_input:.4g}.")
    for title, names in (
        ("Parameters with non-finite gradients", report.parameters),
        ("Images that cause non-finite outputs on their own", report.images),
        ("All images of the step", report.files),
    ):
        click.echo(f"{title}: {len(names)}")
        for name in names[:_SHOWN]:
            click.echo(f"  {one_line(name)}")
        if len(names) > _SHOWN:
            click.echo(f"  … and {len(names) - _SHOWN} more")


def _as_json(value: float) -> float | str:
    """JSON has no word for what is not a number."""
    return value if math.isfinite(value) else str(value)
