"""Small pictures inside annotation files, as text: decoded only if their header fits into the image."""

import base64
import binascii
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy.annotations.shapes import BadRecordError, BoolArray
from protoseg_deploy.data.formats import decoding
from protoseg_deploy.errors import DataError


def decode_text(text: str, what: str) -> bytes:
    """Base64 to bytes.

    Raises:
        BadRecordError: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadRecordError(f"{what} is no base64 text") from None


def inflate(content: bytes, most_bytes: int, what: str) -> bytes:
    """What zlib has packed, up to a limit: a few bytes may unpack to gigabytes.

    Raises:
        BadRecordError: it is damaged, or larger.
    """
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(content, most_bytes + 1)
    except zlib.error as error:
        raise BadRecordError(f"{what} is damaged: {error}") from None
    if len(unpacked) > most_bytes:
        raise BadRecordError(f"{what} unpacks to more than {most_bytes:,} bytes, too much for its image")
    if not unpacker.eof:
        raise BadRecordError(f"{what} is cut off")
    return unpacked


def decode_png(content: bytes, most_pixels: int, what: str) -> BoolArray:
    """A PNG as pixels that are set: opaque ones where it has transparency, otherwise those that are not black.

    Args:
        content: the file.
        most_pixels: of the image that it belongs to; a larger picture is refused by its header.
        what: names it in errors.

    Returns:
        ``[h,w]``

    Raises:
        BadRecordError: it is none, is damaged, or too large.
    """
    try:
        with decoding(Path(what), "picture"), Image.open(BytesIO(content), formats=["PNG"]) as image:
            if image.width * image.height > most_pixels:
                raise BadRecordError(f"{what} has {image.width}x{image.height} pixels, more than its image")
            image.load()
            if image.mode == "P" and "transparency" not in image.info:
                return np.asarray(image) > 0
            if image.has_transparency_data:
                return np.asarray(image.convert("RGBA"))[..., 3] > 0
            values = np.asarray(image)
    except DataError as error:
        raise BadRecordError(error.message) from None
    return np.asarray(values.any(axis=2) if values.ndim == 3 else values > 0, dtype=np.bool_)
