"""Image and mask files to arrays: what is read, how, and what is refused by name.

Images come out as uint8 RGB, turned as their EXIF orientation says:

- grey is repeated over the three channels; 16-bit grey is scaled by the full 16-bit range (65535 becomes 255), never by
  what one image happens to hold, so that equal values stay equal across images;
- palettes are looked up; transparency (alpha channel or transparent palette entry) is composited on black, which leaves
  opaque pixels as they are;
- CMYK is converted by Pillow's plain formula, without colour profiles;
- animations, files of several pages, float and 32-bit images are refused.

Masks are single-channel indices: 8-bit grey, palette (its indices count, its colours do not), 1-bit, or 16-bit with
values below 256. Colour masks and lossily compressed masks are refused.
"""

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from protoseg_deploy.errors import DataError

UInt8Array = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".pnm")
"""Endings that count as images when a folder is searched, upper or lower case."""

# Pillow's limit of 90 megapixels guards web servers against hostile uploads. Files here are the user's own, and aerial
# or slide images are larger; beyond two gigapixels it still refuses.
Image.MAX_IMAGE_PIXELS = 2**30

# Pillow returns the memory of every image to the system, which has to hand out and clear the pages of the next one.
# Here a process keeps up to four blocks of at most 16 MiB for reuse, unless the environment says how many.
if "PILLOW_BLOCKS_MAX" not in os.environ:
    Image.core.set_blocks_max(4)  # type: ignore[attr-defined]

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDES_SWAPPED = (5, 6, 7, 8)
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_CONVERTED = ("RGB", "L", "LA", "La", "P", "PA", "1", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_INDEX_MASKS = ("L", "P", "1", *_SIXTEEN_BIT)
# Grey PNGs of 2 and 4 bits are stretched to 0..255 when Pillow loads them; a mask needs the stored indices back.
_STRETCHED = {"L;2": 85, "L;4": 17}
# What Pillow's parsers let through on damaged files, found by feeding them damaged files.
_BROKEN_FILE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def read_image(path: Path) -> UInt8Array:
    """An image file as ``[H,W,3]`` uint8 RGB, turned upright; writable.

    Raises:
        DataError: the file is missing, damaged, or of a kind that is refused; the message names it.
    """
    with _opened(path, "image") as image:
        _refuse_several_frames(image, path)
        if image.mode not in _CONVERTED and image.mode not in _SIXTEEN_BIT:
            raise DataError(
                f"{path}: images of Pillow mode {image.mode} are not read",
                hint="Convert it to 8-bit RGB or to 8- or 16-bit grey.",
            )
        orientation = _orientation(image)
        if image.mode in _SIXTEEN_BIT:
            upright: Image.Image = Image.fromarray(_scale_16_bit(np.asarray(image)))
        elif image.has_transparency_data:
            layers = image.convert("RGBA")
            upright = Image.new("RGB", image.size)
            upright.paste(layers.convert("RGB"), mask=layers.getchannel("A"))
        else:
            image.load()
            upright = image
        if orientation in _TURNS:
            upright = upright.transpose(_TURNS[orientation])
        return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def read_mask(path: Path, value_map: Mapping[int, int]) -> UInt8Array:
    """A mask file as ``[H,W]`` uint8 class indices; writable.

    Args:
        path: a single-channel index image.
        value_map: values to replace, all at once: ``{1: 2, 2: 1}`` swaps. Values not in it stay.

    Raises:
        DataError: the file is missing, damaged, no index mask, or holds values above 255; the message names it.
    """
    with _opened(path, "mask") as image:
        _refuse_several_frames(image, path)
        if image.format in ("JPEG", "MPO"):
            raise DataError(
                f"{path}: a mask cannot be a JPEG: lossy compression changes the class indices",
                hint="Save masks as single-channel PNG.",
            )
        if image.mode not in _INDEX_MASKS:
            raise DataError(
                f"{path}: a mask has one channel of class indices, this one is {image.mode}",
                hint="Turn colours into class indices (0, 1, 2, …) and save a single-channel or palette PNG.",
            )
        orientation = _orientation(image)
        stretch = _STRETCHED.get(_raw_mode(image), 1)
        indices = np.array(image)
        if indices.dtype == np.uint16:
            if indices.size and indices.max() > 255:
                raise DataError(
                    f"{path}: 16-bit mask with the value {indices.max()}; class indices go up to 255",
                    hint="Instance ids are not class indices: map them to classes first.",
                )
            indices = indices.astype(np.uint8)
        elif indices.dtype == np.bool_:
            indices = indices.astype(np.uint8)
        if stretch != 1:
            indices //= stretch
        if orientation in _TURNS:
            indices = np.array(Image.fromarray(indices).transpose(_TURNS[orientation]))
    return _replace_values(indices, value_map) if value_map else indices


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels after EXIF rotation, from the header alone.

    Raises:
        DataError: the file is missing or is not an image.
    """
    with _opened(path, "image") as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SIDES_SWAPPED else (height, width)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not a file") from None
    except PermissionError:
        raise DataError(f"{path}: not readable: permission denied") from None
    except UnidentifiedImageError:
        reason = "the file is empty" if path.stat().st_size == 0 else "not an image, or its header is damaged"
        raise DataError(f"{path}: {reason}") from None
    except _BROKEN_FILE as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: truncated or damaged {kind}: {detail}") from None


def _refuse_several_frames(image: Image.Image, path: Path) -> None:
    # An MPO is what many phones write: a JPEG whose further frames are previews or depth. Its first frame is the photo.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        frames = getattr(image, "n_frames", "several")
        raise DataError(
            f"{path}: {image.format} with {frames} frames or pages; one image a file is expected",
            hint="Split it into single images.",
        )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, known before the pixels are decoded."""
    if image.format == "TIFF":  # Pillow turns TIFFs itself, in `size` as well as in the pixels
        return 1
    # The method of the base class: the one of PNG decodes the whole image first to look behind the pixels.
    return int(Image.Image.getexif(image).get(_ORIENTATION, 1))


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", [])
    arguments = tiles[0][3] if tiles else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _scale_16_bit(values: NDArray[np.uint16]) -> UInt8Array:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _replace_values(indices: UInt8Array, value_map: Mapping[int, int]) -> UInt8Array:
    table = np.arange(256, dtype=np.uint8)
    for value, replacement in value_map.items():
        table[value] = replacement
    return np.take(table, indices)
