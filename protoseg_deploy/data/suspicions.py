"""Image files that are valid but probably not what the user expects: warnings of a check."""

from collections.abc import Iterable
from pathlib import Path

from protoseg_deploy.data.images import ImageHeader

_LEAST_USED = 0.1
"""Of the range from 0 to 255: 12 bits in 16 use a sixteenth."""
_UPSIDE_DOWN_OR_MIRRORED = (2, 3, 4)


def of_ranges(images: Iterable[tuple[Path, float]], has_range: bool) -> list[str]:
    """Images that are almost one value.

    Args:
        images: files, each with `used_share` of the image.
        has_range: whether the recipe says which values become black and white.
    """
    every = list(images)
    flat = [path for path, share in every if share < _LEAST_USED]
    if not flat:
        return []
    mend = "for 12 bits in 16 set data.value_range=[0,4095], or data.value_range=percentile_2_98"
    one_range = "data.value_range is one for the images of all files"
    if has_range:
        mend = f"{one_range}; bring 8 bits and 16 bits to one depth, or leave it out"
    elif len(flat) < len(every):
        mend += f"; {one_range}: where others have 8 bits, convert these to 8 bits instead"
    return [f"{_counted(flat)} less than a tenth of the values from black to white, such as {flat[0]}: {mend}"]


def of_bands(images: Iterable[tuple[Path, ImageHeader]]) -> list[str]:
    """TIFFs of which only the first three bands are read, without a key that says so."""
    found = [(path, header) for path, header in images if header.unused_bands]
    if not found:
        return []
    path, header = found[0]
    return [
        f"{len(found)} TIFF{'s' if len(found) > 1 else ''} with {header.bands} bands, such as {path}: the first three "
        "are read as red, green and blue; data.bands=[1,2,3] says so, or says which others"
    ]


def of_orientations(pairs: Iterable[tuple[Path, ImageHeader, int]]) -> list[str]:
    """Images that EXIF turns and masks that it does not, where their sizes do not tell whether that is right.

    Args:
        pairs: images, each with its header and the EXIF orientation of its mask.
    """
    doubtful = [
        (path, header.orientation)
        for path, header, mask in pairs
        if header.orientation not in (1, mask)
        and (header.orientation in _UPSIDE_DOWN_OR_MIRRORED or header.height == header.width)
    ]
    if not doubtful:
        return []
    path, orientation = doubtful[0]
    subject = "1 image has an" if len(doubtful) == 1 else f"{len(doubtful)} images have an"
    return [
        f"{subject} EXIF orientation that turns the image but not its mask, such as {path} (orientation {orientation}"
        "): if masks were drawn on the pixels as stored, set data.exif: ignore"
    ]


def _counted(paths: list[Path]) -> str:
    return f"{len(paths)} image uses" if len(paths) == 1 else f"{len(paths)} images use"
