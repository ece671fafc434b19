"""Drawing with hard class ids and soft colours.

Only elementwise sums, products, quotients, roots and roundings are used, which IEEE 754 defines to the last bit, and
no sines, exponentials, dot products or sums over an axis, which differ between processors: the pictures are the same
everywhere.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.scenes.appearance import Array

SUPERSAMPLING = 2


class Direction(NamedTuple):
    """A unit vector, x to the right and y down."""

    x: float
    y: float

    @property
    def left(self) -> "Direction":
        """The vector a quarter turn away."""
        return Direction(-self.y, self.x)


def random_direction(rng: np.random.Generator) -> Direction:
    """Any direction; the rational circle stands in for sine and cosine."""
    slope = rng.random() * 2 - 1
    x, y = (1 - slope * slope) / (1 + slope * slope), 2 * slope / (1 + slope * slope)
    return [Direction(x, y), Direction(-x, y), Direction(y, x), Direction(y, -x)][int(rng.integers(4))]


class Patch:
    """A rectangular part of a canvas, on which one thing is drawn; coordinates are pixels of the finished picture."""

    def __init__(self, canvas: "Canvas", rows: slice, columns: slice) -> None:
        self.color = canvas.color[rows, columns]
        self.ids = canvas.ids[rows, columns]
        self.x = canvas.x[:, columns]
        self.y = canvas.y[rows]

    def along(self, direction: Direction, x: float = 0.0, y: float = 0.0) -> Array:
        """``[h,w]`` distance from a point, measured in a direction."""
        across: Array = (self.x - np.float32(x)) * np.float32(direction.x)
        down: Array = (self.y - np.float32(y)) * np.float32(direction.y)
        return across + down

    def paint(self, cover: NDArray[np.bool_], color: Array, class_id: int | None = None) -> None:
        """Colour, ``[3]`` or ``[h,w,3]``, where `cover` is set; the class of these pixels too if one is given."""
        np.copyto(self.color, color, where=cover[..., None])
        if class_id is not None:
            np.copyto(self.ids, np.uint8(class_id), where=cover)

    def shade(self, cover: NDArray[np.bool_], factor: float) -> None:
        """Brightness times `factor` where `cover` is set."""
        self.color *= np.where(cover, np.float32(factor), np.float32(1))[..., None]


class Canvas:
    """A picture in the making: ``[2h,2w,3]`` float32 colours in 0..255 and ``[2h,2w]`` uint8 class ids."""

    def __init__(self, height: int, width: int, rng: np.random.Generator) -> None:
        self.height, self.width, self.rng = height, width, rng
        rows, columns = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.color = np.zeros((rows, columns, 3), np.float32)
        self.ids = np.zeros((rows, columns), np.uint8)
        self.x: Array = ((np.arange(columns, dtype=np.float32) + np.float32(0.5)) / np.float32(SUPERSAMPLING))[None]
        self.y: Array = ((np.arange(rows, dtype=np.float32) + np.float32(0.5)) / np.float32(SUPERSAMPLING))[:, None]

    def whole(self) -> Patch:
        return Patch(self, slice(None), slice(None))

    def around(self, x: float, y: float, reach: float) -> Patch:
        """The patch within `reach` pixels of a point, clipped at the border (and possibly empty)."""
        left, right, top, bottom = (
            max(0, int(value * SUPERSAMPLING)) for value in (x - reach, x + reach + 1, y - reach, y + reach + 1)
        )
        return Patch(self, slice(top, bottom), slice(left, right))

    def id_at(self, x: float, y: float) -> int | None:
        """The class drawn at a point so far; None outside."""
        row, column = int(y * SUPERSAMPLING), int(x * SUPERSAMPLING)
        inside = 0 <= x < self.width and 0 <= y < self.height
        return int(self.ids[row, column]) if inside else None

    def noise(self, cell: float) -> Array:
        """``[2h,2w]`` smooth noise in 0..1 with bumps of about `cell` pixels."""
        x: Array = self.x[0] / np.float32(cell)
        y: Array = self.y[:, 0] / np.float32(cell)
        return smooth_noise(self.rng, x, y)

    def grain(self) -> Array:
        """``[2h,2w]`` noise in 0..1 without neighbourhood."""
        return self.rng.random(self.ids.shape, np.float32)


def smooth_noise(rng: np.random.Generator, x: Array, y: Array) -> Array:
    """``[len(y),len(x)]`` value noise in 0..1: random numbers at whole coordinates, blended smoothly between them."""
    grid = rng.random((int(y[-1]) + 2, int(x[-1]) + 2), np.float32)
    column, row = x.astype(np.int32), y.astype(np.int32)
    across, down = x - column, y - row
    across, down = (t * t * (3 - 2 * t) for t in (across, down))
    lines = grid[:, column] * (1 - across) + grid[:, column + 1] * across
    blended: Array = lines[row] * (1 - down)[:, None] + lines[row + 1] * down[:, None]
    return blended


def box_blur(image: Array, share: float) -> Array:
    """``[h,w,...]`` mixed with the mean of its four neighbours; borders repeat."""
    padded = np.pad(image, ((1, 1), (1, 1), *((0, 0),) * (image.ndim - 2)), mode="edge")
    neighbours = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return image * np.float32(1 - share) + neighbours * np.float32(share / 4)
