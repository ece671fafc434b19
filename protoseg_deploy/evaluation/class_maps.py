"""The class map of one image of any size, or the reason why there is none."""

import errno
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.errors import ProtosegError, UsageError, WriteError
from protoseg_deploy.evaluation.computing import CheckedRuntime, ComputeError, check_batch
from protoseg_deploy.runtimes.base import RuntimeInfo, UInt8Array
from protoseg_deploy.runtimes.tiling import check_tiles, default_overlap, predict_tiled

FailureKind = Literal["unreadable", "memory", "runtime", "output", "crash"]

_COUNTED_AT_ONCE = 1 << 22
"""Pixels; NumPy counts in 64-bit integers."""

# A name that is too long, or in the way of a folder: the next image has another name. Everything else, a full disk
# first of all, the next image would meet as well.
_OF_ONE_NAME = {errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ, errno.EINVAL, errno.ELOOP}


class ImageError(ProtosegError):
    """One image cannot be done; the next may well be."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind


@dataclass(frozen=True)
class Tiling:
    """In which pieces images are predicted; see `choose_tiling`."""

    tile: tuple[int, int] | None
    """Height and width of the tiles; None: whole images."""
    overlap: int
    """Of neighbouring tiles, in pixels."""
    batch: int
    """Tiles per call."""


def choose_tiling(info: RuntimeInfo, tile: tuple[int, int] | None, overlap: int | None, batch: int) -> Tiling:
    """What was asked for, completed: tiles of the fixed input size of a runtime, a quarter of a tile as overlap.

    Raises:
        UsageError: the tiles do not fit each other or the runtime, or an overlap comes without tiles.
    """
    tile = tile or info.fixed_size
    if tile is None and overlap is not None:
        raise UsageError("an overlap needs a tile size", "Add --tile, or leave --overlap out.")
    overlap = default_overlap(tile) if overlap is None and tile is not None else overlap or 0
    check_batch(info, batch)
    if tile is not None:
        check_tiles(info, tile, overlap, batch)
    return Tiling(tile, overlap, batch)


def predict_image(runtime: CheckedRuntime, image: UInt8Array, name: str, tiling: Tiling) -> NDArray[np.integer]:
    """The class map of one image.

    Args:
        runtime: what predicts.
        image: ``[H,W,3]`` uint8 RGB.
        name: of the image, for messages.
        tiling: see `choose_tiling`.

    Returns:
        ``[H,W]`` class indices of the runtime's dtype.

    Raises:
        ImageError: this image cannot be computed.
        ProtosegError: no image can, a plain grey one neither.
    """
    try:
        if tiling.tile is not None:
            return predict_tiled(runtime, image, tiling.tile, tiling.overlap, tiling.batch)
        class_map: NDArray[np.integer] = runtime.predict(image[None])[0]
        return class_map
    except ComputeError as error:
        height, width = image.shape[:2]
        if error.kind == "memory":
            way_out = "predict it in tiles: --tile 1024" if tiling.tile is None else "make --tile or --batch smaller"
            reason = f"{width}x{height} pixels are too many at once for the memory; {way_out}"
        elif error.is_refusal or runtime.works():
            reason = f"{runtime.info.path} cannot predict its {width}x{height} pixels: {error.message}"
        else:
            raise ProtosegError(
                f"{runtime.info.path} fails, on a plain grey image too: {error.message}",
                "Is the server in order?"
                if runtime.info.kind == "server"
                else "Run `protoseg verify` on it, or export it again.",
            ) from error
        raise ImageError(error.kind, f"{name}: {reason}") from None


def as_indices(class_map: NDArray[np.integer], classes: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """A class map as it is stored: uint8, or uint16 where there are more than 256 classes."""
    if classes <= 256:
        return class_map.astype(np.uint8, copy=False)
    return class_map.astype(np.uint16, copy=False)


def count_pixels(class_map: NDArray[np.integer], classes: int) -> tuple[int, ...]:
    """Pixels by class, of a class map ``[H,W]``."""
    pixels, flat = np.zeros(classes, np.int64), class_map.ravel()
    for first in range(0, flat.size, _COUNTED_AT_ONCE):
        pixels += np.bincount(flat[first : first + _COUNTED_AT_ONCE], minlength=classes)
    return tuple(pixels.tolist())


def is_of_one_name(error: WriteError) -> bool:
    """Whether a result could not be written for its name, so that those of other images can be."""
    return error.errno in _OF_ONE_NAME
