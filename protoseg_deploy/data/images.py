"""Image files to arrays: what is read, how, and what is refused by name.

Images come out as uint8 RGB, turned as their EXIF orientation says (``data.exif``):

- grey is repeated over the three channels; 16-bit grey is scaled by the full 16-bit range (65535 becomes 255), never by
  what one image happens to hold, so that equal values stay equal across images; ``data.value_range`` gives another
  range, and float and 32-bit images need one;
- palettes are looked up; transparency (alpha channel or transparent palette entry) is composited on black, which leaves
  opaque pixels as they are. In TIFFs it is not: their fourth band is often none (``data.alpha``);
- of TIFFs with four bands the first three are read; of other numbers ``data.bands`` says which;
- CMYK is converted by Pillow's plain formula, without colour profiles;
- animations and files of several pages are refused; overviews and masks inside a TIFF are no pages.
"""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data.declared import as_stored, stored_maximum
from protoseg_deploy.data.deep_png import read_16_bit_png
from protoseg_deploy.data.formats import MOST_PIXELS, decoding
from protoseg_deploy.data.scaling import to_uint8
from protoseg_deploy.data.sources import Source, UInt8Array, open_source
from protoseg_deploy.data.tiff import CMYK, TiffPage
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading

SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_CONVERTED = ("RGB", "L", "LA", "La", "P", "PA", "1", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
PLAIN = ImageReading()
"""What files are to people who say nothing about them."""
_RANGE_HINT = "Set data.value_range: the values that become black and white, [LOW, HIGH], or percentile_2_98."
_BANDS_HINT = "Set data.bands: which of them are red, green and blue, e.g. [1, 2, 3], or one band as grey, e.g. [1]."


@dataclass(frozen=True)
class ImageHeader:
    """What a header says of an image, without decoding it."""

    height: int
    """As `read_image` gives it."""
    width: int
    orientation: int
    """EXIF orientation, 1 (upright) to 8, whether it is applied or not."""
    bands: int
    """Samples of a pixel."""
    unused_bands: int
    """Bands of a TIFF that are passed over although no key says so."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


def read_image(path: Path, reading: ImageReading = PLAIN) -> UInt8Array:
    """An image file as ``[H,W,3]`` uint8 RGB; writable.

    Args:
        path: the file.
        reading: bands, range and orientation: of the recipe in training, of the network everywhere else. The default
            is for scripts: inside this program every caller says it.

    Raises:
        DataError: the file is missing, damaged, or of a kind that is refused; the message names it.
    """
    with open_source(path, "image", exact=reading.value_range is not None, bands=reading.bands) as source:
        try:
            return source.turned(_rgb(source, reading), reading.exif)
        except MemoryError:
            raise source.no_memory() from None


def decode_image(
    content: bytes, name: str, reading: ImageReading = PLAIN, *, most_pixels: int = MOST_PIXELS
) -> UInt8Array:
    """An encoded image in memory as ``[H,W,3]`` uint8 RGB: what `read_image` gives of a file with that content.

    Args:
        content: JPEG, PNG or any other format that is read from files.
        name: of the image, for messages.
        reading: see `read_image`.
        most_pixels: an image with more is refused before it is decoded.

    Raises:
        DataError: see `read_image`; the message begins with the name.
    """
    exact = reading.value_range is not None
    with open_source(Path(name), "image", exact=exact, bands=reading.bands, content=BytesIO(content)) as source:
        pixels = source.height * source.width
        if pixels > most_pixels:
            raise DataError(
                f"{name}: too large: {source.width}x{source.height} pixels, {pixels:,} in all; up to {most_pixels:,} "
                "are taken"
            )
        try:
            return source.turned(_rgb(source, reading), reading.exif)
        except MemoryError:
            raise source.no_memory() from None


def image_header(path: Path, reading: ImageReading = PLAIN) -> ImageHeader:
    """Size, orientation and bands, from the header alone.

    Raises:
        DataError: the file is missing or is not an image that is read.
    """
    with open_source(path, "image", exact=reading.value_range is not None, bands=reading.bands) as source:
        height, width = source.size(reading.exif)
        page = source.page
        if page is not None and source.image is None:
            _refuse_unclear_bands(path, page, reading)
        bands = page.bands if page is not None else len(source.image.getbands()) if source.image else 0
        unused = 0
        if page is not None and reading.bands is None and page.photometric != CMYK:
            unused = max(0, bands - (page.alpha is not None) - 3)
        return ImageHeader(height, width, source.orientation, bands, unused)


def image_size(path: Path, reading: ImageReading = PLAIN) -> tuple[int, int]:
    """Height and width in pixels as `read_image` gives them, from the header alone.

    Raises:
        DataError: the file is missing or is not an image that is read.
    """
    return image_header(path, reading).size


def read_values(path: Path, reading: ImageReading) -> NDArray[Any]:
    """The values of the bands of an image, ``[H,W,1]`` or ``[H,W,3]``, as stored: what `value_range` is measured on.

    Raises:
        DataError: as `read_image`.
    """
    with open_source(path, "image", exact=True, bands=reading.bands) as source:
        try:
            values, _ = _values(source, reading)
        except MemoryError:
            raise source.no_memory() from None
        return values


def used_share(image: UInt8Array) -> float:
    """Share of the range from 0 to 255 that lies between the darkest and the brightest value of an image."""
    return (int(image.max()) - int(image.min())) / 255


def _rgb(source: Source, reading: ImageReading) -> UInt8Array:
    values, full = _values(source, reading)
    if reading.value_range is not None:
        values = to_uint8(values, *reading.value_range)
    elif full is None:
        raise DataError(f"{source.path}: {values.dtype} image: its value range is unknown", hint=_RANGE_HINT)
    elif values.dtype != np.uint8 or full != 255:
        values = to_uint8(values, 0, full)
    return values if values.shape[2] == 3 else np.repeat(values, 3, axis=2)


def _values(source: Source, reading: ImageReading) -> tuple[NDArray[Any], int | None]:
    """``[H,W,1]`` or ``[H,W,3]`` as stored, and the largest value that could be; None where nothing says so."""
    if source.image is None:
        assert source.page is not None
        return _tiff_values(source, source.page, reading)
    image = source.image
    if source.exact and image.format == "PNG" and ";16" in source.raw_mode and image.mode not in SIXTEEN_BIT:
        with decoding(source.path, source.kind):
            deep = read_16_bit_png(source.file)
        if reading.bands is None:
            deep = np.ascontiguousarray(deep[..., : 1 if deep.shape[2] < 3 else 3])
        return _chosen(deep, reading, source.path), 65535
    maximum = stored_maximum(source) if source.exact else None
    with decoding(source.path, source.kind):
        image.load()
    if image.mode in SIXTEEN_BIT or image.mode in ("I", "F"):
        return _single_band(source, image, reading, maximum)
    if image.mode not in _CONVERTED:
        raise DataError(
            f"{source.path}: images of Pillow mode {image.mode} are not read",
            hint="Convert it to 8-bit RGB or to 8- or 16-bit grey.",
        )
    with decoding(source.path, source.kind):
        values = _eight_bit(source, image, reading)
    return as_stored(source, values, maximum), maximum or 255


def _single_band(
    source: Source, image: Image.Image, reading: ImageReading, maximum: int | None
) -> tuple[NDArray[Any], int | None]:
    with decoding(source.path, source.kind):
        values = as_stored(source, np.array(image)[..., None], maximum)
    full: int | None = None
    page = source.page
    if page is not None:
        if page.kind == "u":
            values = values.view(np.uint32) if values.dtype == np.int32 else values
            full = 2**page.bits - 1 if page.bits <= 16 else None
    elif image.mode != "F":  # 16-bit PNG and PGM
        full = maximum or 65535
    return _white_is_high(_chosen(values, reading, source.path), page, full), full


def _eight_bit(source: Source, image: Image.Image, reading: ImageReading) -> UInt8Array:
    """``[H,W,3]``, or the bands that were asked for."""
    page = source.page
    has_alpha = image.has_transparency_data if page is None else page.alpha is not None
    if reading.bands is not None:
        return _chosen(np.array(_unpacked(image)).reshape(image.height, image.width, -1), reading, source.path)
    if has_alpha and _alpha_applies(reading, page):
        layers = image.convert("RGBA")
        composed = Image.new("RGB", image.size)
        composed.paste(layers.convert("RGB"), mask=layers.getchannel("A"))
        return np.array(composed)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _unpacked(image: Image.Image) -> Image.Image:
    """With one sample for every band that can be asked for."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("CMYK", "YCbCr"):
        return image.convert("RGB")
    targets = {"1": "L", "La": "LA", "RGBa": "RGBA"}
    return image.convert(targets[image.mode]) if image.mode in targets else image


def _alpha_applies(reading: ImageReading, page: TiffPage | None) -> bool:
    return reading.alpha == "apply" or (reading.alpha == "auto" and page is None)


def _tiff_values(source: Source, page: TiffPage, reading: ImageReading) -> tuple[NDArray[Any], int | None]:
    _refuse_unclear_bands(source.path, page, reading)
    stored = source.tiff_values()
    full = 2**page.bits - 1 if page.kind == "u" and page.bits <= 16 else None
    if reading.bands is not None:
        return _white_is_high(_chosen(stored, reading, source.path), page, full), full
    values = np.ascontiguousarray(stored[..., : 1 if page.bands < 3 else 3])
    # Colours that are multiplied by alpha already are what they are on black.
    if page.alpha == page.bands - 1 and _alpha_applies(reading, page) and not page.is_premultiplied and full:
        alpha = stored[..., page.alpha :].astype(np.float64) / full
        values = np.floor(values * alpha + 0.5).astype(stored.dtype)
    return _white_is_high(values, page, full), full


def _refuse_unclear_bands(path: Path, page: TiffPage, reading: ImageReading) -> None:
    bands = f"TIFF with {page.bands} band{'s' if page.bands > 1 else ''}"
    if page.kind == "other" or page.photometric > 2:
        raise DataError(
            f"{path}: {bands} of {page.bits} bits, sample format or colour space unusual (photometric "
            f"{page.photometric}), is not read",
            hint="Convert it to RGB or grey of 8 or 16 bits.",
        )
    shown = page.bands - 1 if page.alpha == page.bands - 1 else page.bands
    if reading.bands is None and shown not in (1, 3, 4):
        raise DataError(f"{path}: {bands} is not read: its colour bands are unknown", hint=_BANDS_HINT)


def _white_is_high(values: NDArray[Any], page: TiffPage | None, full: int | None) -> NDArray[Any]:
    """Grey of which 0 is white comes out as others do; Pillow has done that for 8 bits."""
    if page is None or not page.is_white_zero or full is None:
        return values
    return (full - values).astype(values.dtype)


def _chosen(values: NDArray[Any], reading: ImageReading, path: Path) -> NDArray[Any]:
    """The bands of ``[H,W,bands]`` that are asked for; all of them where none are."""
    if reading.bands is None:
        return values
    bands = values.shape[2]
    if max(reading.bands) > bands:
        raise DataError(
            f"{path}: has {bands} band{'s' if bands > 1 else ''}, data.bands asks for band {max(reading.bands)}",
            hint="data.bands counts the bands of every image of the recipe from 1.",
        )
    return np.ascontiguousarray(values[..., [band - 1 for band in reading.bands]])
