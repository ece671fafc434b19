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


def read_batch(folder: Path, batch: int, reading: ImageReading, size: tuple[int, int] | None = None) -> UInt8Array:
    """The first images of a folder as one batch ``[B,H,W,3]`` uint8 RGB; repeated where there are fewer.

    Args:
        folder: searched recursively.
        batch: how many.
        reading: how the images are read.
        size: height and width to resize to (bilinear); the size of the first image when absent.

    Raises:
        UsageError: there is no such folder, or no memory for such a batch.
        DataError: it holds no images, or an unreadable one.
    """
    if not folder.is_dir():
        raise UsageError(f"--images: no such folder: {folder}")
    faults: list[str] = []
    found = find_images(folder, leave_out=[], key="--images", faults=faults)[:batch]
    if faults:
        raise DataError("nothing to measure with:", faults)
    images = [read_image(path, reading) for path in found]
    height, width = size or images[0].shape[:2]
    require_memory(batch, height, width)
    resized = [
        image
        if image.shape[:2] == (height, width)
        else np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        for image in images
    ]
    return np.stack(list(islice(cycle(resized), batch)))


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
