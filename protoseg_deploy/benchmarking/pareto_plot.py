"""Accuracy over latency, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from protoseg_deploy.benchmarking.rows import MeasuredRow
from protoseg_deploy.files import write_atomically


def pareto_front(rows: Sequence[MeasuredRow]) -> list[MeasuredRow]:
    """Rows that no other one beats in latency and in mIoU, by latency; rows without mIoU are left out."""
    judged = sorted(
        (row for row in rows if row.miou_percent is not None), key=lambda row: (row.latency_p50_ms, -_miou(row))
    )
    front: list[MeasuredRow] = []
    for row in judged:
        if not front or _miou(row) > _miou(front[-1]):
            front.append(row)
    return front


def draw_pareto(rows: Sequence[MeasuredRow], path: Path) -> None:
    """Write a point for each row with its 95 % intervals, and a line through those that no other one beats.

    Rows that are not steady have hollow markers; rows without mIoU are left out.

    Args:
        rows: see `MeasuredRow`.
        path: of the file, ``.png`` or ``.svg``.

    Raises:
        WriteError: the file cannot be written.
    """
    figure = Figure(figsize=(8, 5), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    front = pareto_front(rows)
    axes.plot([row.latency_p50_ms for row in front], [_miou(row) for row in front], color="#009E73", linewidth=1.2)
    for row in rows:
        if row.miou_percent is None:
            continue
        miou, p50 = row.miou_percent, row.latency_p50_ms
        low, high = row.miou_low_percent, row.miou_high_percent
        spread = None if low is None or high is None else [[miou - low], [high - miou]]
        axes.errorbar(
            [p50],
            [miou],
            xerr=[[p50 - row.latency_p50_low_ms], [row.latency_p50_high_ms - p50]],
            yerr=spread,
            fmt="o",
            color="#0072B2",
            markerfacecolor="#0072B2" if row.steady else "white",
            elinewidth=0.8,
            capsize=2,
        )
        axes.annotate(row.runtime, (p50, miou), xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel="p50 latency, arrays in memory (ms)", ylabel="mIoU (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def _miou(row: MeasuredRow) -> float:
    return row.miou_percent or 0.0
