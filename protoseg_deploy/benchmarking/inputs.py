"""Real images as the input of a measurement."""

from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy.data.finding import find_images
from protoseg_deploy.data.images import read_image
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.runtimes.base import UInt8Array


class ImageBatch:
    """The first images of a folder; repeated where there are fewer than a batch.

    Args:
        folder: searched recursively.
        batch: how many.
        reading: how the images are read.
        size: height and width to resize to (bilinear); the size of the first image when absent.

    Raises:
        UsageError: there is no such folder, or no memory for such a batch.
        DataError: it holds no images, or an unreadable one.
    """

    def __init__(self, folder: Path, batch: int, reading: ImageReading, size: tuple[int, int] | None = None) -> None:
        if not folder.is_dir():
            raise UsageError(f"--images: no such folder: {folder}")
        faults: list[str] = []
        self._paths = find_images(folder, leave_out=[], key="--images", faults=faults)[:batch]
        if faults:
            raise DataError("nothing to measure with:", faults)
        self._batch, self._reading = batch, reading
        self._size = size or read_image(self._paths[0], reading).shape[:2]
        require_memory(batch, *self._size)

    def read(self) -> UInt8Array:
        """``[B,H,W,3]`` uint8 RGB, read and decoded anew."""
        paths = islice(cycle(self._paths), self._batch)
        return np.stack([self._resized(read_image(path, self._reading)) for path in paths])

    def _resized(self, image: UInt8Array) -> UInt8Array:
        if image.shape[:2] == self._size:
            return image
        return np.asarray(Image.fromarray(image).resize(self._size[::-1], Image.Resampling.BILINEAR))


def require_memory(batch: int, height: int, width: int) -> None:
    """Refuse a batch of images that alone are larger than the memory of this machine.

    Raises:
        UsageError: they are.
    """
    import psutil  # here, because it imports `resource` on Unix: everything else can do without

    needed, there = batch * height * width * 3, psutil.virtual_memory().total
    if needed > there:
        raise UsageError(
            f"{batch} x {height}x{width} pixels take {needed >> 30:,} GiB; the memory has {there >> 30:,} GiB",
            "Make --batch or --size smaller.",
        )
