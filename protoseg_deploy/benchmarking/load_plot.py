"""Latency over load, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from protoseg_deploy.benchmarking.load import LoadPoint
from protoseg_deploy.files import write_atomically

_LINES = (("p50_ms", "p50", "#0072B2", "o-"), ("p99_ms", "p99", "#D55E00", "s--"))


def draw_load(
    points: Sequence[LoadPoint], closed: LoadPoint | None, knee_per_second: float | None, path: Path, title: str
) -> None:
    """Write latencies over the offered rate, with the knee and what clients in a closed loop get at most.

    Args:
        points: of open loops.
        closed: of a closed loop.
        knee_per_second: highest rate that the server kept up with.
        path: of the file, ``.png`` or ``.svg``.
        title: of the picture.

    Raises:
        WriteError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 5), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    shown = sorted((point for point in points if point.sent > point.failed), key=lambda point: _rate(point))
    for attribute, label, color, style in _LINES:
        values = [getattr(point, attribute) for point in shown]
        axes.plot([_rate(point) for point in shown], values, style, color=color, label=label)
    if closed is not None:
        label = f"most in a closed loop ({closed.clients} clients)"
        axes.axvline(closed.answered_per_second, color="#000000", linestyle=":", label=label)
    if knee_per_second is not None:
        axes.axvline(knee_per_second, color="#009E73", linestyle="-.", label=f"knee, {knee_per_second:.0f}/s")
    axes.set(xlabel="offered requests per second", ylabel="latency from the planned time (ms)", title=title)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def _rate(point: LoadPoint) -> float:
    return point.offered_per_second or 0.0
