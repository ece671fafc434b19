"""Connected regions of a class map, as polygons along the edges of its pixels: filling them gives the map back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.annotations.shapes import BoolArray, Polygons, Ring

_EAST, _SOUTH, _WEST, _NORTH = range(4)


@dataclass(frozen=True)
class Region:
    """Pixels of one class that touch along their sides."""

    label: int
    """Index of the class."""
    outer: Ring
    """Corners, clockwise as images show it, in whole pixels."""
    holes: tuple[Ring, ...]
    """Corners, counterclockwise."""
    area: int
    """Pixels."""

    @property
    def polygons(self) -> Polygons:
        """As a shape."""
        return Polygons((self.outer,), self.holes)


def find_regions(class_map: NDArray[Any], labels: Sequence[int]) -> Iterator[Region]:
    """Regions of some classes, class by class, from the top of the map.

    Args:
        class_map: ``[H,W]`` class indices.
        labels: the classes wanted.
    """
    for label in labels:
        pixels = class_map == label
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        if len(rows):
            top, left = int(rows[0]), int(columns[0])
            part = pixels[top : rows[-1] + 1, left : columns[-1] + 1]
            yield from _regions(part, label, np.array([left, top], dtype=np.float64))


def _regions(pixels: BoolArray, label: int, corner: Ring) -> Iterator[Region]:
    loops = _trace(pixels)
    holes: dict[int, list[int]] = {number: [] for number, loop in enumerate(loops) if loop.area > 0}
    parents = _parents(pixels, loops)
    for number, parent in parents.items():
        holes[parent].append(number)
    for number, inner in holes.items():
        rings = tuple(loops[hole].ring + corner for hole in inner)
        area = loops[number].area + sum(loops[hole].area for hole in inner)
        yield Region(label, loops[number].ring + corner, rings, area)


@dataclass(frozen=True)
class _Loop:
    """A border, with its region on the right."""

    ring: Ring
    area: int
    """Positive of an outer border, negative of a hole."""
    right_edges: list[int]
    """Corners where edges begin that have the region on their left pixel's side, of a hole: the leftmost is wanted."""
    left_edges: list[int]
    """Corners where edges on the left side of a pixel begin."""


def _trace(pixels: BoolArray) -> list[_Loop]:
    height, width = pixels.shape
    padded = np.pad(pixels, 1)
    inner = padded[1:-1, 1:-1]
    row = width + 1
    starts = [np.zeros((height + 1, row), dtype=np.uint8) for _ in range(4)]
    starts[_EAST][:-1, :-1] = inner & ~padded[:-2, 1:-1]
    starts[_SOUTH][:-1, 1:] = inner & ~padded[1:-1, 2:]
    starts[_WEST][1:, 1:] = inner & ~padded[2:, 1:-1]
    starts[_NORTH][1:, :-1] = inner & ~padded[1:-1, :-2]
    begins = np.flatnonzero(starts[_EAST]).tolist()
    edges = [bytearray(one.tobytes()) for one in starts]
    return [_follow(edges, begin, row) for begin in begins if edges[_EAST][begin]]


def _follow(edges: list[bytearray], begin: int, row: int) -> _Loop:
    """One border; its edges are used up. Where two regions touch at a corner, it turns right, and they stay apart."""
    steps = (1, row, -1, -row)
    corners: list[int] = []
    sides: tuple[list[int], list[int]] = [], []
    at, direction, before = begin, _EAST, -1
    while edges[direction][at]:
        edges[direction][at] = 0
        if direction != before:
            corners.append(at)
        if direction & 1:
            sides[direction == _NORTH].append(at)
        at += steps[direction]
        before = direction
        for turn in (1, 0, 3):
            if edges[(direction + turn) & 3][at]:
                direction = (direction + turn) & 3
                break
    if before == _EAST:  # the first corner lies on a straight side
        corners.pop(0)
    places = np.array(corners, dtype=np.int64)
    x, y = places % row, places // row
    area = int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) // 2
    return _Loop(np.stack([x, y], axis=1).astype(np.float64), area, *sides)


def _parents(pixels: BoolArray, loops: Sequence[_Loop]) -> dict[int, int]:
    """The outer border that each hole belongs to: of the run of pixels that ends at its leftmost side."""
    row = pixels.shape[1] + 1
    holes = [number for number, loop in enumerate(loops) if loop.area < 0]
    if not holes:
        return {}
    owners = np.full((pixels.shape[0] + 1) * row, -1, dtype=np.int32)
    for number, loop in enumerate(loops):
        owners[loop.left_edges] = number
    lefts = {number: min(loops[number].right_edges, key=lambda place: place % row) for number in holes}
    parents: dict[int, int] = {}
    for number in sorted(holes, key=lambda hole: lefts[hole] % row):
        y, x = divmod(lefts[number], row)
        line = owners[(y + 1) * row : (y + 1) * row + x]  # an edge on a left side begins at its lower corner
        found = int(line[np.flatnonzero(line >= 0)[-1]])
        parents[number] = found if loops[found].area > 0 else parents[found]
    return parents
