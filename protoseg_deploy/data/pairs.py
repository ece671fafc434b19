"""An image and its mask: whether they fit, and what EXIF orientation has to do with it if they do not."""

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import image_header
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading


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
