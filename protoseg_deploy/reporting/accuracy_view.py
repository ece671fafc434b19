"""How well networks segment: IoU by class, what is taken for what, and which pixels are trusted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.reporting.figures import count, percent
from protoseg_deploy.reporting.findings import Findings
from protoseg_deploy.reporting.panels import Judgement
from protoseg_deploy.reporting.summary import WEAK_PERCENT, gap

_MOST_CLASSES = 24
"""A matrix of more cannot be read."""
_MOST_MATRICES = 4
_MOST_MIX_UPS = 10


@dataclass(frozen=True)
class IouCell:
    """IoU of one class by one network."""

    value: str
    width: float
    """Of the bar, in percent."""
    difference: str
    """To the first network, in points; empty in the first column."""
    better: bool | None
    """By half a point or more; None: neither."""
    weak: bool


@dataclass(frozen=True)
class IouRow:
    """One class."""

    name: str
    color: str
    support: str
    """Share of the counted pixels that are truly of this class, in percent."""
    pixels: int
    cells: tuple[IouCell, ...]


@dataclass(frozen=True)
class MatrixCell:
    text: str
    share: float
    """0..1 of the true class."""
    diagonal: bool


@dataclass(frozen=True)
class MatrixView:
    """What one network takes for what."""

    name: str
    names: tuple[str, ...]
    rows: tuple[tuple[MatrixCell, ...], ...]
    """Empty where there are too many classes."""
    mix_ups: tuple[tuple[str, str, str, str], ...]
    """The largest confusions: truth, prediction, share of the truth in percent, pixels."""


@dataclass(frozen=True)
class TrustRow:
    name: str
    color: str
    share: str
    width: float
    right: str


@dataclass(frozen=True)
class TrustView:
    """Pixels that a method would trust, by predicted class."""

    name: str
    threshold: str
    rows: tuple[TrustRow, ...]


def iou_rows(findings: Findings) -> list[IouRow]:
    """All classes, in index order."""
    classes = findings.classes
    if classes is None:
        return []
    ious = {name: findings.iou_of(name) for name in findings.names}
    labels = dict.fromkeys([*classes.names, *(label for found in ious.values() for label in found or {})])
    colors = dict(zip(classes.names, classes.colors, strict=True))
    support = findings.support()
    total = sum(support.values())
    rows = []
    for label in labels:
        values = [(ious[name] or {}).get(label) for name in findings.names]
        rows.append(
            IouRow(
                label,
                css_color(colors.get(label, (128, 128, 128))),
                percent(100 * support[label] / total, 2) if total and label in support else "–",
                support.get(label, 0),
                tuple(_iou_cell(value, values[0], first=number == 0) for number, value in enumerate(values)),
            )
        )
    return rows if any(cell.value != "–" for row in rows for cell in row.cells) else []


def _iou_cell(value: float | None, reference: float | None, *, first: bool) -> IouCell:
    difference = None if value is None or reference is None else value - reference
    return IouCell(
        percent(value),
        value or 0.0,
        "" if first else gap(value, reference),
        None if first or difference is None or abs(difference) < 0.5 else difference > 0,
        value is not None and value < WEAK_PERCENT,
    )


def matrices(findings: Findings) -> list[MatrixView]:
    """Row-normalised confusion of the first networks."""
    return [_matrix(judged) for judged in list(findings.judgements.values())[:_MOST_MATRICES]]


def _matrix(judged: Judgement) -> MatrixView:
    counts = judged.counts
    shares: NDArray[np.float64] = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    names = judged.classes.names
    rows: list[tuple[MatrixCell, ...]] = []
    if len(names) <= _MOST_CLASSES:
        for true, line in enumerate(shares):
            there = counts[true].sum() > 0
            rows.append(
                tuple(
                    MatrixCell(_share_text(float(share)) if there else "–", float(share), true == predicted)
                    for predicted, share in enumerate(line)
                )
            )
    wrong = [
        (int(counts[true, predicted]), true, predicted)
        for true in range(len(names))
        for predicted in range(len(names))
        if true != predicted and counts[true, predicted]
    ]
    mix_ups = tuple(
        (names[true], names[predicted], percent(100 * float(shares[true, predicted])), count(pixels))
        for pixels, true, predicted in sorted(wrong, reverse=True)[:_MOST_MIX_UPS]
    )
    return MatrixView(judged.name, names, tuple(rows), mix_ups)


def _share_text(share: float) -> str:
    """Percent without digits that nobody reads."""
    if share == 0:
        return "·"
    return "<1" if share < 0.005 else f"{100 * share:.0f}"


def trust_views(findings: Findings) -> list[TrustView]:
    """Networks whose method has a threshold."""
    views = []
    for judged in findings.judgements.values():
        trusted = judged.trusted
        if trusted is None:
            continue
        rows = []
        for index, name in enumerate(judged.classes.names):
            pixels, sure, right = (int(part[index]) for part in (trusted.pixels, trusted.trusted, trusted.right))
            share = 100 * sure / pixels if pixels else None
            rows.append(
                TrustRow(
                    name,
                    css_color(judged.classes.colors[index]),
                    percent(share),
                    share or 0.0,
                    percent(100 * right / sure if sure else None),
                )
            )
        views.append(TrustView(judged.name, f"{trusted.threshold:g}", tuple(rows)))
    return views


def css_color(color: tuple[int, int, int]) -> str:
    """``#804080``."""
    return "#{:02x}{:02x}{:02x}".format(*color)
