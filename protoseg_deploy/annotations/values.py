"""Values of files from outside, checked one at a time: what is not as it must be is a bad record, never a crash."""

import math
from typing import Any

import numpy as np

from protoseg_deploy.annotations.shapes import BadRecordError, Ring
from protoseg_deploy.data.formats import MOST_PIXELS
from protoseg_deploy.text import shown


def mapping(value: Any, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        BadRecordError: it is something else.
    """
    if not isinstance(value, dict):
        raise BadRecordError(f"{what} is {shown(value)}, not an object")
    return value


def sequence(value: Any, what: str) -> list[Any]:
    """A JSON array.

    Raises:
        BadRecordError: it is something else.
    """
    if not isinstance(value, list):
        raise BadRecordError(f"{what} is {shown(value)}, not a list")
    return value


def text(value: Any, what: str) -> str:
    """A text that is not empty.

    Raises:
        BadRecordError: it is something else.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadRecordError(f"{what} is {shown(value)}, not a text")
    return value


def number(value: Any, what: str) -> float:
    """A finite number; texts of numbers count, as XML has them.

    Raises:
        BadRecordError: it is something else.
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise BadRecordError(f"{what} is {shown(value)}, not a finite number")
    return found


def whole(value: Any, what: str) -> int:
    """A whole number of at most ten digits.

    Raises:
        BadRecordError: it is something else.
    """
    found = number(value, what)
    if found != int(found) or abs(found) >= 10**10:
        raise BadRecordError(f"{what} is {shown(value)}, not a whole number")
    return int(found)


def size(height: Any, width: Any) -> tuple[int, int]:
    """Height and width of an image.

    Raises:
        BadRecordError: they are no sides, or there are more pixels than are read.
    """
    rows, columns = whole(height, "the height"), whole(width, "the width")
    if rows < 1 or columns < 1:
        raise BadRecordError(f"a size of {columns}x{rows} pixels")
    if rows * columns > MOST_PIXELS:
        raise BadRecordError(f"a size of {columns}x{rows} pixels; up to {MOST_PIXELS:,} in all are read")
    return rows, columns


def ring(values: Any, what: str = "the polygon", fewest: int = 3) -> Ring:
    """Corners of a polygon: pairs of numbers, or numbers in one row.

    Raises:
        BadRecordError: they are no finite numbers, or fewer corners than a polygon has.
    """
    try:
        flat = np.asarray(values, dtype=np.float64).ravel()
    except (TypeError, ValueError, OverflowError):
        raise BadRecordError(f"{what} holds what is no number") from None
    if not np.isfinite(flat).all():
        raise BadRecordError(f"{what} holds NaN or infinite coordinates")
    if flat.size % 2:
        raise BadRecordError(f"{what} has {flat.size} coordinates, an odd number")
    if flat.size < 2 * fewest:
        raise BadRecordError(f"{what} has {flat.size // 2} points; {fewest} are the least")
    return flat.reshape(-1, 2)


def rectangle(left: float, top: float, right: float, bottom: float, rotation: float = 0.0) -> Ring:
    """Corners of a rectangle, turned clockwise about its centre by an angle in degrees."""
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)
    return turned(corners, ((left + right) / 2, (top + bottom) / 2), rotation)


def turned(points: Ring, centre: tuple[float, float], degrees: float) -> Ring:
    """Points turned clockwise, as images show it, about a centre."""
    if not degrees % 360:
        return points
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    placed: Ring = (points - centre) @ np.array([[cos, sin], [-sin, cos]]) + centre
    return placed


def ellipse(x: float, y: float, radius_x: float, radius_y: float, rotation: float = 0.0) -> Ring:
    """A polygon that is nowhere farther from an ellipse than a tenth of a pixel."""
    longest = max(abs(radius_x), abs(radius_y), 1.0)
    corners = min(3600, max(12, math.ceil(math.pi / math.acos(max(0.0, 1 - 0.1 / longest)))))
    angles = np.linspace(0, 2 * math.pi, corners, endpoint=False)
    points = np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)
    return turned(points, (x, y), rotation)
