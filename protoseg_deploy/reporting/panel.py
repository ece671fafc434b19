"""Images, truth and predictions side by side, as one PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from protoseg_deploy.evaluation.colors import IGNORE_COLORS
from protoseg_deploy.files import write_atomically
from protoseg_deploy.recipe import ClassTable, Color

Row = tuple[str, Sequence[tuple[str, NDArray[np.uint8]]]]
"""A caption (may be empty), and titled ``[H,W,3]`` uint8 RGB pictures."""

_CELL_WIDTH = 2.6
"""Inches."""
_TITLE_HEIGHT = 0.42
_GAP = 0.06
_LEGEND_ROW = 0.2
_DPI = 130


def panel(
    rows: Sequence[Row], path: Path, *, classes: ClassTable | None = None, ignored: bool = False, title: str = ""
) -> None:
    """Write a grid of pictures: one row an example, one column a kind (image, truth, each prediction).

    A title stands above the first row, and above a later row only where it differs from the one above it: give the same
    titles in every row for column heads, or titles that end in each row's own mIoU. Titles may have several lines.

    Args:
        rows: captions and titled pictures; class maps come coloured (`colorize`).
        path: the PNG to write; its folder is made if missing.
        classes: for a legend of names and colours below the grid.
        ignored: add the ignore stripes to the legend.
        title: a heading over all of it.

    Raises:
        ValueError: there is no picture.
        WriteError: the file cannot be written.
    """
    if not rows or not all(pictures for _, pictures in rows):
        raise ValueError("a panel needs at least one row, and a picture in each")
    figure = _draw(rows, classes, ignored, title)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw(rows: Sequence[Row], classes: ClassTable | None, ignored: bool, title: str) -> Figure:
    columns = max(len(pictures) for _, pictures in rows)
    left = 0.3 if any(caption for caption, _ in rows) else _GAP
    titles = [_shown_titles(rows, number) for number in range(len(rows))]
    title_heights = [
        max((_TITLE_HEIGHT / 2 * (1 + text.count("\n")) for text in row if text), default=0) for row in titles
    ]
    cell_heights = [_CELL_WIDTH * max(_aspect(picture) for _, picture in pictures) for _, pictures in rows]
    legend = _legend_entries(classes, ignored)
    width = left + columns * (_CELL_WIDTH + _GAP)
    per_row = max(1, int(width // _legend_width(legend))) if legend else 1
    legend_height = (-(-len(legend) // per_row) * _LEGEND_ROW + 0.12) if legend else 0.0
    heading = 0.4 if title else 0.0
    height = heading + sum(title_heights) + sum(cell_heights) + _GAP * (len(rows) + 1) + legend_height

    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    if title:
        figure.text(0.5, 1 - 0.2 / height, title, ha="center", va="center", fontsize=12, fontweight="bold")
    top = height - heading - _GAP
    for (caption, pictures), shown, title_height, cell_height in zip(
        rows, titles, title_heights, cell_heights, strict=True
    ):
        bottom = top - title_height - cell_height
        if caption:
            middle = (bottom + cell_height / 2) / height
            figure.text(0.15 / width, middle, caption, rotation=90, ha="center", va="center", fontsize=8)
        for column, ((_, picture), text) in enumerate(zip(pictures, shown, strict=True)):
            x = left + column * (_CELL_WIDTH + _GAP)
            axes = figure.add_axes((x / width, bottom / height, _CELL_WIDTH / width, cell_height / height))
            axes.imshow(picture, interpolation="nearest" if max(picture.shape) < _CELL_WIDTH * _DPI else "antialiased")
            axes.set_axis_off()
            if text:
                axes.set_title(text, fontsize=9, pad=3)
        top = bottom - _GAP
    if legend:
        figure.legend(
            handles=legend,
            loc="lower center",
            ncols=min(per_row, len(legend)),
            frameon=False,
            fontsize=8,
            handlelength=1.4,
            handleheight=1.0,
            columnspacing=1.4,
            borderaxespad=0.1,
        )
    return figure


def _shown_titles(rows: Sequence[Row], number: int) -> list[str]:
    above = [text for text, _ in rows[number - 1][1]] if number else []
    return [
        "" if column < len(above) and above[column] == text else text
        for column, (text, _) in enumerate(rows[number][1])
    ]


def _aspect(picture: NDArray[np.uint8]) -> float:
    height, width = picture.shape[:2]
    return float(height / width)


def _legend_entries(classes: ClassTable | None, ignored: bool) -> list[Patch]:
    entries: list[Patch] = []
    if classes is not None:
        entries += [
            Patch(facecolor=_unit(color), edgecolor="0.4", linewidth=0.5, label=name)
            for name, color in zip(classes.names, classes.colors, strict=True)
        ]
    if ignored:
        entries.append(
            Patch(facecolor=_unit(IGNORE_COLORS[1]), edgecolor=_unit(IGNORE_COLORS[0]), hatch="/////", label="ignored")
        )
    return entries


def _legend_width(entries: Sequence[Patch]) -> float:
    """Inches of the widest entry, estimated: figures are laid out before any text is drawn."""
    return 0.5 + 0.075 * max(len(str(entry.get_label())) for entry in entries)


def _unit(color: Color) -> tuple[float, float, float]:
    return (color[0] / 255, color[1] / 255, color[2] / 255)
