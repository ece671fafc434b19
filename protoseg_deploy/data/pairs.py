"""An image and its mask: whether they fit, and what EXIF orientation has to do with it if they do not."""

from collections.abc import Mapping

import numpy as np

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import image_header
from protoseg_deploy.data.sources import UInt8Array
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading, MaskReading


def require_fit(
    sample: Sample,
    image: UInt8Array,
    mask: UInt8Array,
    classes: int,
    images: ImageReading,
    masks: MaskReading,
) -> None:
    """Refuse a mask that does not go with its image.

    Raises:
        DataError: it is of another size, or holds what is neither a class nor ignored.
    """
    counts = dict(enumerate(np.bincount(mask.ravel(), minlength=256).tolist()))
    faults = (
        size_fault(sample, image.shape[:2], mask.shape, images),
        values_fault(sample, counts, classes, masks.ignore_index),
    )
    if fault := next(filter(None, faults), None):
        raise DataError(fault)


def values_fault(sample: Sample, pixels: Mapping[int, int], classes: int, ignore_index: int) -> str | None:
    """What is wrong where a mask holds values that are no class; None where it does not.

    Args:
        sample: the two files.
        pixels: how many of the mask have which value.
        classes: values are 0 up to here, or ignored.
        ignore_index: the value that is.
    """
    wrong = [value for value, count in pixels.items() if count and value >= classes and value != ignore_index]
    if not wrong:
        return None
    shown = ", ".join(map(str, wrong[:10])) + (", …" if len(wrong) > 10 else "")
    return (
        f"{sample.mask}: ids out of range: {shown} in {sum(pixels[value] for value in wrong)} pixels "
        f"(classes are 0 to {classes - 1}, ignored is {ignore_index})"
    )


def size_fault(
    sample: Sample, image_size: tuple[int, ...], mask_size: tuple[int, ...], reading: ImageReading
) -> str | None:
    """What is wrong where an image and its mask differ in size; None where they do not.

    Args:
        sample: the two files.
        image_size: height and width as read.
        mask_size: height and width as read.
        reading: how the image was read.
    """
    if image_size[:2] == mask_size[:2]:
        return None
    fault = (
        f"{sample.mask}: {mask_size[0]}×{mask_size[1]} pixels (height×width), "
        f"but its image {sample.image} has {image_size[0]}×{image_size[1]}"
    )
    if image_size[:2] != mask_size[1::-1]:
        return fault
    try:
        orientation = image_header(sample.image, reading).orientation
    except DataError:
        return fault
    if orientation == 1:
        return fault
    if reading.exif == "ignore":
        return f"{fault}; the image has EXIF orientation {orientation}, which data.exif: ignore does not apply"
    return (
        f"{fault}, as it was turned by its EXIF orientation {orientation}; "
        "if masks were drawn on the pixels as stored, set data.exif: ignore"
    )
