"""mIoU over steps, one line per variant with the range of its seeds, as one PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from protoseg_deploy.files import write_atomically

Curve = Sequence[tuple[int, float]]
"""Steps and mIoU in percent."""

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Of Okabe and Ito's palette for all kinds of colour vision, without its yellow, which is faint on white."""
_DASHES = ("-", "--", ":", "-.")
"""Once all colours are taken."""
_MARKERS = "osD^vPX"
"""They tell lines apart where colours are not printed."""


def draw_curves(curves: Mapping[str, Sequence[Curve]], path: Path) -> None:
    """Write the mean over runs as a line with a marker at each evaluation, and least to most as a band.

    A variant's line covers the steps at which all of its runs were evaluated; one without runs is left out.

    Args:
        curves: by variant, one a run.
        path: of the PNG.

    Raises:
        WriteError: the file cannot be written.
    """
    figure = _figure(curves)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _figure(curves: Mapping[str, Sequence[Curve]]) -> Figure:
    figure = Figure(figsize=(8, 5), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for number, (name, runs) in enumerate(curves.items()):
        if not runs:
            continue
        by_step = [dict(run) for run in runs]
        steps = [step for step in by_step[0] if all(step in run for run in by_step)]
        values = [[run[step] for run in by_step] for step in steps]
        color = COLORS[number % len(COLORS)]
        lowest, highest = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between(steps, lowest, highest, color=color, alpha=0.12, linewidth=0)
        for edge in (lowest, highest) if len(runs) > 1 else ():
            axes.plot(steps, edge, color=color, alpha=0.5, linewidth=0.6)
        axes.plot(
            steps,
            [sum(v) / len(v) for v in values],
            color=color,
            linestyle=_DASHES[number // len(COLORS) % len(_DASHES)],
            marker=_MARKERS[number % len(_MARKERS)],
            markersize=5,
            markevery=max(1, len(steps) // 15),
            linewidth=1.8,
            label=f"{name} ({len(runs)} run{'s' if len(runs) > 1 else ''})",
        )
    axes.set_xlabel("training step")
    axes.set_ylabel("validation mIoU, %")
    axes.set_title("Line: mean over seeds; band: lowest to highest", fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
