"""Latency over a condition that was varied, as a picture."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from protoseg_deploy.benchmarking.rows import MeasuredRow
from protoseg_deploy.files import write_atomically

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LABELS = {"batch": "images per call", "size": "pixels per image", "threads": "CPU threads", "cuda_graph": "CUDA graph"}


def draw_sweep(rows: Sequence[MeasuredRow], varied: Sequence[str], path: Path) -> None:
    """Write p50 latency per image over the condition with the most values; a line for each runtime and the others.

    Args:
        rows: see `MeasuredRow`.
        varied: those of `CONDITIONS` that were varied.
        path: of the file, ``.png`` or ``.svg``.

    Raises:
        WriteError: the file cannot be written.
    """
    axis = max(varied, key=lambda name: len({_value(row, name) for row in rows}))
    others = [name for name in varied if name != axis]
    lines: dict[str, list[MeasuredRow]] = {}
    for row in rows:
        label = ", ".join([row.runtime, *(f"{name} {row.shown(name)}" for name in others)])
        lines.setdefault(label, []).append(row)
    figure = Figure(figsize=(8, 5), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for number, (label, line) in enumerate(lines.items()):
        ordered = sorted(line, key=lambda row: _value(row, axis))
        low = [(row.latency_p50_ms - row.latency_p50_low_ms) / row.batch for row in ordered]
        high = [(row.latency_p50_high_ms - row.latency_p50_ms) / row.batch for row in ordered]
        axes.errorbar(
            [_value(row, axis) for row in ordered],
            [row.latency_p50_ms / row.batch for row in ordered],
            yerr=[low, high],
            fmt="o-",
            capsize=2,
            color=_COLORS[number % len(_COLORS)],
            label=label,
        )
    axes.set(xlabel=_LABELS[axis], ylabel=f"p50 latency per image, {rows[0].boundary} (ms)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def _value(row: MeasuredRow, name: str) -> int:
    return row.height * row.width if name == "size" else int(getattr(row, name) or 0)
