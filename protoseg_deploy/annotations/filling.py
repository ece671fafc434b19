"""Which pixels a polygon covers."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from protoseg_deploy.annotations.run_lengths import decode_runs, parse_coco_counts
from protoseg_deploy.annotations.shapes import BadRecordError, Bitmap, BoolArray, Polygons, Ring

_MOST_CROSSINGS = 2**25
"""Of outlines with lines of pixels: beyond any drawing by hand, far below what fills the memory."""


@dataclass(frozen=True)
class Covered:
    """The pixels of a shape that lie in its image."""

    pixels: BoolArray
    """``[h,w]``"""
    top: int
    left: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Where they lie in the image."""
        height, width = self.pixels.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def covered(geometry: Polygons | Bitmap, size: tuple[int, int]) -> Covered:
    """The pixels of an image that a shape covers.

    Args:
        geometry: coordinates may lie anywhere.
        size: height and width of the image.

    Raises:
        BadRecordError: the outline has more corners and is longer than can be drawn.
    """
    if isinstance(geometry, Bitmap):
        return _cropped(geometry, size)
    top, bottom, left, right = _box(geometry.outers, size)
    height, width = bottom - top, right - left
    pixels = np.zeros((height, width), dtype=np.bool_)
    if height and width:
        corner = np.array([left, top], dtype=np.float64)
        fill = {"centres": fill_by_centres, "coco": _fill_as_coco, "pixels": _fill_as_pillow}[geometry.rule]
        for ring in geometry.outers:
            pixels |= fill(ring - corner, (height, width))
        for ring in geometry.holes:
            pixels &= ~fill(ring - corner, (height, width))
    return Covered(pixels, top, left)


def distance_outside(geometry: Polygons | Bitmap, size: tuple[int, int]) -> float:
    """How far a shape reaches over the borders of its image, in pixels; infinite where none of it lies inside."""
    height, width = size
    if isinstance(geometry, Bitmap):
        rows, columns = geometry.pixels.shape
        low, high = (geometry.left, geometry.top), (geometry.left + columns, geometry.top + rows)
    else:
        points = np.concatenate(geometry.outers)
        (x_low, y_low), (x_high, y_high) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
        low, high = (x_low, y_low), (x_high, y_high)
    if low[0] >= width or low[1] >= height or high[0] < 0 or high[1] < 0:
        return math.inf
    return float(max(0.0, -low[0], -low[1], high[0] - width, high[1] - height))


def fill_by_centres(ring: Ring, size: tuple[int, int]) -> BoolArray:
    """Pixels whose centre lies inside a ring, by parity; a centre on the line counts as right of or below it.

    Equal edges in opposite directions cancel exactly, so that a cut from an outline to a hole leaves no trace.

    Args:
        ring: ``[N,2]`` corners (x, y), closed from the last to the first.
        size: height and width.

    Returns:
        ``[H,W]``

    Raises:
        BadRecordError: see `covered`.
    """
    height, width = size
    ends = np.roll(ring, -1, axis=0)
    down = (ring[:, 1] < ends[:, 1])[:, None]  # every edge from its upper end, or both directions would round apart
    upper, lower = np.where(down, ring, ends), np.where(down, ends, ring)
    first = np.clip(np.ceil(upper[:, 1] - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(lower[:, 1] - 0.5), 0, height).astype(np.int64)
    counts = last - first
    total = int(counts.sum())
    _require_drawable(total)
    edges = np.repeat(np.arange(len(ring)), counts)
    rows = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    start, end = upper[edges], lower[edges]
    share = (rows + 0.5 - start[:, 1]) / (end[:, 1] - start[:, 1])
    crossings = start[:, 0] + share * (end[:, 0] - start[:, 0])
    columns = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    flips = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)) & 1
    parity = np.bitwise_xor.accumulate(flips.astype(np.uint8).reshape(height, width + 1), axis=1)
    return parity[:, :width].astype(np.bool_)


def clipped(ring: Ring, low: tuple[float, float], high: tuple[float, float]) -> Ring:
    """The part of a ring in a rectangle (Sutherland and Hodgman, 1974); empty where there is none."""
    for axis in (0, 1):
        ring = _half(ring, axis, low[axis], 1.0)
        ring = _half(ring, axis, high[axis], -1.0)
    return ring


def _half(ring: Ring, axis: int, limit: float, sign: float) -> Ring:
    """What lies on one side of a line."""
    if not len(ring):
        return ring
    ends = np.roll(ring, -1, axis=0)
    here, there = sign * (ring[:, axis] - limit), sign * (ends[:, axis] - limit)
    inside, crosses = here >= 0, (here >= 0) != (there >= 0)
    share = np.where(crosses, here / np.where(crosses, here - there, 1.0), 0.0)[:, None]
    points = np.stack([ring, ring + share * (ends - ring)], axis=1)
    points[:, 1, axis] = limit
    kept: Ring = points[np.stack([inside, crosses], axis=1)]
    return kept


def _fill_as_coco(ring: Ring, size: tuple[int, int]) -> BoolArray:
    from pycocotools import mask

    ring = _within(ring, size)
    if len(ring) < 3:
        return np.zeros(size, dtype=np.bool_)
    height, width = size
    (code,) = mask.frPyObjects([ring.ravel().tolist()], height, width)
    return decode_runs(parse_coco_counts(code["counts"].decode()), height, width, by_column=True)


def _fill_as_pillow(ring: Ring, size: tuple[int, int]) -> BoolArray:
    ring = _within(ring, size)
    canvas = Image.new("L", (size[1], size[0]))
    if len(ring) > 1:
        ImageDraw.Draw(canvas).polygon([(x, y) for x, y in ring.tolist()], fill=1)
    return np.asarray(canvas, dtype=np.bool_)


def _within(ring: Ring, size: tuple[int, int]) -> Ring:
    """A ring that libraries can draw, whose time and memory grow with its length; one near the image stays as it is."""
    limit = np.array([size[1], size[0]], dtype=np.float64)
    if (ring < -limit - 16).any() or (ring > 2 * limit + 16).any():
        ring = clipped(ring, (-1.0, -1.0), (size[1] + 1.0, size[0] + 1.0))
    if len(ring):
        _require_drawable(float(np.abs(np.diff(ring, axis=0, append=ring[:1])).max(axis=1).sum()))
    return ring


def _require_drawable(crossings: float) -> None:
    if crossings > _MOST_CROSSINGS:
        raise BadRecordError(f"an outline that crosses {crossings:,.0f} lines of pixels, too long to draw")


def _box(rings: tuple[Ring, ...], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Rows and columns around rings, a pixel larger, in the image."""
    points = np.concatenate(rings)
    limit = np.array([size[1], size[0]], dtype=np.float64)
    low = np.clip(np.floor(points.min(axis=0)) - 1, 0, limit).astype(np.int64).tolist()
    high = np.clip(np.ceil(points.max(axis=0)) + 2, 0, limit).astype(np.int64).tolist()
    return low[1], max(low[1], high[1]), low[0], max(low[0], high[0])


def _cropped(bitmap: Bitmap, size: tuple[int, int]) -> Covered:
    rows, columns = bitmap.pixels.shape
    top, left = max(0, bitmap.top), max(0, bitmap.left)
    bottom, right = min(size[0], bitmap.top + rows), min(size[1], bitmap.left + columns)
    if bottom <= top or right <= left:
        return Covered(np.zeros((0, 0), dtype=np.bool_), 0, 0)
    part = bitmap.pixels[top - bitmap.top : bottom - bitmap.top, left - bitmap.left : right - bitmap.left]
    return Covered(part, top, left)
