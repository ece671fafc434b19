"""Images of any size through a runtime that sees one tile at a time."""

from itertools import islice, pairwise, product

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array

ClassMap = NDArray[np.integer]


def predict_tiled(
    runtime: Runtime, image: UInt8Array, tile: int | tuple[int, int], overlap: int, batch: int = 1
) -> ClassMap:
    """One image in overlapping tiles, each output pixel from the tile in which it lies most centrally.

    Neighbouring tiles overlap by at least `overlap` and are cut in the middle of what they share, so no output pixel is
    nearer than ``overlap // 2`` to a tile border inside the image: a network whose receptive field reaches no further
    gives what it would give on the whole image.

    A side shorter than the tile is predicted at its own length, or, if the runtime is limited to a fixed input size,
    padded by reflection and cut again.

    Args:
        runtime: what predicts.
        image: ``[H,W,3]`` uint8 RGB.
        tile: side, or height and width, of a tile in pixels.
        overlap: pixels shared by neighbouring tiles; smaller than the tile.
        batch: tiles per call of the runtime.

    Returns:
        ``[H,W]`` class indices of the runtime's dtype.

    Raises:
        UsageError: the overlap does not fit the tile, or the tile does not fit a runtime of fixed size.
    """
    tile = (tile, tile) if isinstance(tile, int) else tile
    fixed = runtime.info.fixed_size
    check_tiles(runtime.info, tile, overlap, batch)
    height, width = image.shape[:2]
    if fixed is None:
        tile = (min(tile[0], height), min(tile[1], width))
    else:
        image = _pad_to(image, tile)
    rows = _spans(image.shape[0], tile[0], overlap)
    columns = _spans(image.shape[1], tile[1], overlap)
    places = product(rows, columns)
    class_map: ClassMap | None = None
    while group := list(islice(places, min(batch, len(rows) * len(columns)))):
        tiles = [image[top : top + tile[0], left : left + tile[1]] for (top, _, _), (left, _, _) in group]
        predicted = runtime.predict(np.stack(tiles))
        if class_map is None:
            class_map = np.empty(image.shape[:2], dtype=predicted.dtype)
        for ((top, upper, lower), (left, west, east)), part in zip(group, predicted, strict=True):
            class_map[upper:lower, west:east] = part[upper - top : lower - top, west - left : east - left]
    assert class_map is not None
    return class_map[:height, :width]


def check_tiles(info: RuntimeInfo, tile: tuple[int, int], overlap: int, batch: int) -> None:
    """Refuse tiles that cannot be, or that a runtime does not take.

    Raises:
        UsageError: the overlap does not fit the tile, or the tile does not fit a runtime of fixed size.
    """
    if min(tile) < 1 or batch < 1:
        raise UsageError(f"tiles of {tile[0]}x{tile[1]} pixels in batches of {batch}: sizes start at 1")
    if not 0 <= overlap < min(tile):
        raise UsageError(
            f"an overlap of {overlap} pixels does not fit tiles of {tile[0]}x{tile[1]}",
            f"It lies between 0 and {min(tile) - 1}; {default_overlap(tile)} is usual.",
        )
    fixed = info.fixed_size
    if fixed is not None and tile != fixed:
        raise UsageError(
            f"tiles of {tile[0]}x{tile[1]} asked for, but this runtime takes {fixed[0]}x{fixed[1]} only",
            "Leave the tile size out, or export without a fixed size.",
        )


def default_overlap(tile: int | tuple[int, int]) -> int:
    """A quarter of the shorter side of a tile, in pixels."""
    return (tile if isinstance(tile, int) else min(tile)) // 4


def fit_image(array: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Cut the centre out, or pad symmetrically by mirroring, where no tiling is wanted.

    Args:
        array: ``[H,W,3]`` image or ``[H,W]`` mask; both are fitted alike.
        size: height and width.
    """
    for axis, wanted in enumerate(size):
        surplus = array.shape[axis] - wanted
        if surplus >= 0:
            array = np.take(array, np.arange(surplus // 2, surplus // 2 + wanted), axis=axis)
        else:
            widths = [(0, 0)] * array.ndim
            widths[axis] = (-surplus // 2, -surplus - -surplus // 2)
            array = np.pad(array, widths, mode="symmetric")
    return np.ascontiguousarray(array)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """Start of each tile along one side, and the part of the output it owns: (start, first, end)."""
    count = 1 + -(-(length - tile) // max(tile - overlap, 1))  # a side no longer than the overlap is one tile
    # spread evenly rather than pushed against the far border: every overlap is as large as the others
    starts = [(length - tile) * number // max(count - 1, 1) for number in range(count)]
    cuts = [0, *((left + tile + right) // 2 for left, right in pairwise(starts)), length]
    return list(zip(starts, cuts[:-1], cuts[1:], strict=True))


def _pad_to(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Pad at the bottom and at the right, if needed."""
    missing = [(0, max(0, wanted - side)) for wanted, side in zip(size, image.shape[:2], strict=True)]
    # numpy repeats the reflection where the padding is longer than the image
    return np.pad(image, [*missing, (0, 0)], mode="symmetric") if any(end for _, end in missing) else image
