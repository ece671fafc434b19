"""Charts as SVG that takes its colours from the page, so that they fit light, dark and print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from protoseg_deploy.text import printable

MOST_POINTS = 300
"""Of a line; longer ones are averaged over neighbouring points."""
STYLES = 6
"""So many series have colours and markers of their own."""
_CORNERS: dict[int, list[tuple[float, float]]] = {
    1: [(-1, -1), (1, -1), (1, 1), (-1, 1)],
    2: [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
    3: [(0, -1.3), (1.2, 1), (-1.2, 1)],
    4: [(0, 1.3), (1.2, -1), (-1.2, -1)],
    5: [(-1.3, -0.5), (-0.5, -0.5), (-0.5, -1.3), (0.5, -1.3), (0.5, -0.5), (1.3, -0.5), (1.3, 0.5), (0.5, 0.5),
        (0.5, 1.3), (-0.5, 1.3), (-0.5, 0.5), (-1.3, 0.5)],
}  # fmt: skip
"""Of markers around (0, 0), for a size of 1."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 12, 40


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    name: str
    points: Sequence[tuple[float, float]]
    style: int
    """Number of its colour and marker."""
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A point of a scatter chart."""

    name: str
    x: float
    y: float
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    hollow: bool = False
    style: int = 0


def line_chart(
    title: str, series: Sequence[Series], *, x_label: str, y_label: str, width: int = 640, height: int = 300
) -> Markup:
    """Lines with markers where there are few points; empty without a point.

    Args:
        title: what it shows, for those who do not see it.
        series: lines; those without points are left out.
        x_label: below.
        y_label: on the left.
        width: of the drawing, which the page scales.
        height: likewise.
    """
    lines = [
        Series(one.name, thinned([point for point in one.points if _finite(point)]), one.style, one.dashed)
        for one in series
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    axes = _Axes([point for line in lines for point in line.points], width, height)
    drawn = [_line(line, axes) for line in lines]
    return _svg(title, axes, x_label, y_label, drawn)


def scatter_chart(
    title: str,
    dots: Sequence[Dot],
    front: Sequence[tuple[float, float]],
    *,
    x_label: str,
    y_label: str,
    width: int = 640,
    height: int = 340,
) -> Markup:
    """Named dots with the ranges that they may lie in, and a line through the front; empty without a dot."""
    dots = [dot for dot in dots if _finite((dot.x, dot.y))]
    if not dots:
        return Markup("")
    corners = [(dot.x, dot.y) for dot in dots]
    corners += [(x, dot.y) for dot in dots for x in dot.x_range or ()]
    corners += [(dot.x, y) for dot in dots for y in dot.y_range or ()]
    axes = _Axes(corners, width, height, x_from_zero=True)
    drawn = []
    if len(front) > 1:
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in front)
        drawn.append(Markup('<polyline class="front" points="{}"/>').format(path))
    drawn += [_dot(dot, axes) for dot in dots]
    return _svg(title, axes, x_label, y_label, drawn)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MOST_POINTS`: means of neighbouring ones."""
    if len(points) <= MOST_POINTS:
        return list(points)
    size = -(-len(points) // MOST_POINTS)
    groups = [points[first : first + size] for first in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def marker(style: int, x: float = 8.0, y: float = 8.0, size: float = 4.0) -> Markup:
    """The marker of a style, around a point: they differ where colours cannot be told apart."""
    number = style % STYLES
    if number == 0:
        return Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, size)
    return Markup('<polygon points="{}"/>').format(
        " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in _CORNERS[number])
    )


class _Axes:
    """From values to places in the drawing, with round ticks."""

    def __init__(
        self, points: Sequence[tuple[float, float]], width: int, height: int, *, x_from_zero: bool = False
    ) -> None:
        self.width, self.height = width, height
        xs, ys = [x for x, _ in points], [y for _, y in points]
        self.x_ticks = _ticks(0.0 if x_from_zero or min(xs) < 0.3 * max(xs) else min(xs), max(xs), width / 90)
        self.y_ticks = _ticks(0.0 if 0 <= min(ys) < 0.3 * max(ys) else min(ys), max(ys), height / 50)

    def x(self, value: float) -> float:
        low, high = self.x_ticks[0], self.x_ticks[-1]
        return _LEFT + (value - low) / (high - low) * (self.width - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return self.height - _BOTTOM - (value - low) / (high - low) * (self.height - _TOP - _BOTTOM)


def _ticks(low: float, high: float, wanted: float) -> list[float]:
    """Round numbers around a range."""
    if high <= low:
        low, high = low - abs(low or 1.0) * 0.1, high + abs(high or 1.0) * 0.1
    raw = (high - low) / max(2.0, wanted)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_text(value: float, step: float) -> str:
    """A tick with the digits that tell it from the next."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-4):
        return f"{value:.3g}"
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _svg(title: str, axes: _Axes, x_label: str, y_label: str, drawn: Sequence[Markup]) -> Markup:
    bottom, right = axes.height - _BOTTOM, axes.width - _RIGHT
    x_step, y_step = (ticks[1] - ticks[0] for ticks in (axes.x_ticks, axes.y_ticks))
    parts = [_rule("grid", _LEFT, right, axes.y(value), axes.y(value)) for value in axes.y_ticks]
    parts += [_text(_LEFT - 6, axes.y(value) + 4, tick_text(value, y_step), "end") for value in axes.y_ticks]
    parts += [_text(axes.x(value), bottom + 16, tick_text(value, x_step)) for value in axes.x_ticks]
    parts.append(_rule("axis", _LEFT, right, bottom, bottom))
    label = Markup('<g class="label{}">{}</g>')
    parts.append(label.format("", _text((_LEFT + right) / 2, axes.height - 6, x_label)))
    turned = Markup('<g transform="translate(13 {:.0f}) rotate(-90)">{}</g>')
    parts.append(label.format(" y", turned.format((_TOP + bottom) / 2, _text(0, 0, y_label))))
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        axes.width, axes.height, printable(title), Markup("").join([*parts, *drawn])
    )


def _rule(kind: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(kind, x1, x2, y1, y2)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, printable(text))


def _line(line: Series, axes: _Axes) -> Markup:
    places = [(axes.x(x), axes.y(y)) for x, y in line.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dashed = " dashed" if line.dashed else ""
    parts = [Markup('<polyline points="{}"/>').format(path)] if len(places) > 1 else []
    if len(places) <= 40:
        for (x, y), (step, value) in zip(places, line.points, strict=True):
            text = f"{line.name}, {step:,.0f}: {value:.4g}"
            parts.append(Markup("<g>{}<title>{}</title></g>").format(marker(line.style, x, y, 3.5), printable(text)))
    return Markup('<g class="series s{}{}">{}</g>').format(line.style % STYLES, dashed, Markup("").join(parts))


def _dot(dot: Dot, axes: _Axes) -> Markup:
    x, y = axes.x(dot.x), axes.y(dot.y)
    parts = []
    if dot.x_range:
        parts.append(_rule("range", axes.x(dot.x_range[0]), axes.x(dot.x_range[1]), y, y))
    if dot.y_range:
        parts.append(_rule("range", x, x, axes.y(dot.y_range[0]), axes.y(dot.y_range[1])))
    parts.append(marker(dot.style, x, y, 5))
    late = x > axes.width * 0.62
    parts.append(_text(x + (-9 if late else 9), y - 7, dot.name, "end" if late else "start"))
    hollow = " hollow" if dot.hollow else ""
    tip = printable(f"{dot.name}: {dot.x:.4g}, {dot.y:.4g}")
    return Markup('<g class="series s{}{}">{}<title>{}</title></g>').format(
        dot.style % STYLES, hollow, Markup("").join(parts), tip
    )


def _finite(point: tuple[float, float]) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])
