"""Formats that declare a range of their own, to which Pillow stretches values: what was stored comes back here.

Netpbm files say which value is white (``maxval``), JPEG 2000 how many bits a sample has, grey PNGs
and TIFFs have 2 or 4 bits. For a photograph that is all;
class indices, and the values of ``data.value_range``, are those that are stored.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data.sources import Source
from protoseg_deploy.errors import DataError

_JPEG_2000_START = b"\xff\x4f\xff\x51"
"""Start of a code stream and of its sizes."""
_JPEG_2000_DEPTH = 42
"""Where, from there, the byte with the bits of the first band lies."""


def stored_maximum(source: Source) -> int | None:
    """The largest value that a file can hold, where Pillow stretches its values to 255 or 65535; None elsewhere.

    Known before the pixels are decoded.
    """
    image = source.image
    if image is None:
        return None
    if image.format == "PPM":
        return _maxval(image)
    if image.format == "JPEG2000":
        return _jpeg_2000_maximum(source)
    packed = {"L;2": 3, "L;4": 15}
    return packed.get(source.raw_mode[:3])


def as_stored(source: Source, values: NDArray[Any], maximum: int | None) -> NDArray[Any]:
    """Undo the stretching.

    Args:
        source: the file.
        values: decoded by Pillow.
        maximum: see `stored_maximum`.

    Raises:
        DataError: Pillow has cut the values to 8 bits; there is no way back.
    """
    if maximum is None:
        return values
    stretched = 255 if values.dtype == np.uint8 else 65535
    if maximum > stretched:
        raise DataError(
            f"{source.path}: values of {maximum.bit_length()} bits in a file of this kind are read as 8 bits only",
            hint="Save it as a TIFF or PNG of 16 bits.",
        )
    if maximum == stretched:
        return values
    table = np.floor(np.arange(stretched + 1) * (maximum / stretched) + 0.5)
    return np.take(table.astype(np.uint8 if maximum < 256 else np.uint16), values)


def _maxval(image: Image.Image) -> int | None:
    tiles = getattr(image, "tile", [])
    if image.mode in ("1", "F") or not tiles:
        return None
    arguments = tiles[0][3]
    if isinstance(arguments, tuple) and isinstance(arguments[-1], int):
        return arguments[-1]
    return 65535 if image.mode == "I" else 255  # read as they are


def _jpeg_2000_maximum(source: Source) -> int | None:
    source.file.seek(0)
    head = source.file.read(65_536)
    start = head.find(_JPEG_2000_START)
    depth = head[start + _JPEG_2000_DEPTH : start + _JPEG_2000_DEPTH + 1] if start >= 0 else b""
    return 2 ** ((depth[0] & 0x7F) + 1) - 1 if depth else None
