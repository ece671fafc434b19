"""Which formats of image files are read, and how a file is opened: never by another program, never without a limit.

Pillow alone would try every format it knows on a file, whatever its name: among them PostScript, for which it starts
Ghostscript. Here it is told what to try. The content decides what a file is; its ending only whether a folder lists it.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError, features

from protoseg_deploy.errors import DataError
from protoseg_deploy.files import open_regular

MOST_PIXELS = 2**30
"""The largest image that is read, 32768 pixels square: an orthophoto for ``predict --tile``. Its class map, colours and
overlay take some 12 bytes a pixel; what a hostile header claims beyond that is refused before anything is decoded."""

_ALWAYS_BELIEVED = 2**26
_MOST_PIXELS_A_BYTE = 100_000
"""An empty picture takes that little in no format but those for fax. Memory for the others is not even asked for."""

MASK_FORMATS = frozenset({"PNG", "TIFF", "BMP", "DIB", "GIF", "PPM"})
"""The formats whose pixels are what was saved."""

_JPEG_2000_SUFFIXES = (".jp2", ".j2k", ".j2c", ".jpx", ".jpf")
_HEIF_SUFFIXES = (".heic", ".heif")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_HEIF_HINT = "pip install 'protoseg-deploy[heic]' adds HEIC; or convert it to JPEG or PNG."
_OTHER_KINDS = (
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\x89HDF", "HDF5"),
    (128, b"DICM", "DICOM"),
    (0, b"\xd7\xcd\xc6\x9a", "a Windows metafile"),
    (0, b"<svg", "SVG"),
)
"""Where a signature lies, the signature, and what the file is: formats people try that are not read."""


def has_heif() -> bool:
    return find_spec("pillow_heif") is not None


def _has(feature: str) -> bool:
    """Whether Pillow was built with a feature; of one that it has never heard of it would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(features.check(feature))


def _suffixes() -> tuple[str, ...]:
    suffixes = [".jpg", ".jpeg", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm"]
    suffixes += [".webp"] if _has("webp") else []
    suffixes += [".avif"] if _has("avif") else []
    suffixes += _JPEG_2000_SUFFIXES if _has("jpg_2000") else ()
    suffixes += _HEIF_SUFFIXES if has_heif() else ()
    return tuple(suffixes)


def _formats() -> tuple[str, ...]:
    """Names of Pillow's readers that may open a file."""
    optional = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
    return (
        *("JPEG", "PNG", "TIFF", "BMP", "DIB", "GIF", "PPM"),
        *(name for name, feature in optional.items() if _has(feature)),
    )


IMAGE_SUFFIXES = _suffixes()
"""Endings that count as images when a folder is searched, upper or lower case: of formats that can be read here."""

IMAGE_FORMATS = _formats()

# The limit is `MOST_PIXELS`, an error of ours. Pillow's own limit of 90 megapixels guards web servers against hostile
# uploads; it warns first, and raises at twice that.
Image.MAX_IMAGE_PIXELS = 2 * MOST_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# What Pillow passes over in a file that it can read all the same is no news to who runs a command on a folder of them.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

# Pillow returns the memory of every image to the system, which has to hand out and clear the pages of the next one.
# Here a process keeps up to four blocks of at most 16 MiB for reuse, unless the environment says how many.
if "PILLOW_BLOCKS_MAX" not in os.environ:
    Image.core.set_blocks_max(4)  # type: ignore[attr-defined]


def missing_reader(suffix: str) -> str:
    """How files of an ending that are not read here could be: a command to install something; or nothing.

    Args:
        suffix: such as ``.heic``, upper or lower case.
    """
    return _HEIF_HINT if suffix.lower() in _HEIF_SUFFIXES and not has_heif() else ""


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """A regular file, opened for reading.

    Raises:
        DataError: there is none, or it cannot be opened; the message names it.
    """
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not a file") from None
    except PermissionError:
        raise DataError(f"{path}: not readable: permission denied") from None
    except OSError as error:  # a named pipe, a device, a name too long, a disk that fails
        raise DataError(f"{path}: not readable: {error.strerror or error}") from None
    except ValueError as error:  # a name with a NUL
        raise DataError(f"{str(path)!r}: no name of a file: {error}") from None
    with file:
        yield file


@contextmanager
def decoding(path: Path, kind: str) -> Iterator[None]:
    """Around calls into Pillow and tifffile alone: whatever these raise on a damaged file is one error.

    Args:
        path: the file.
        kind: ``image`` or ``mask``.

    Raises:
        DataError: in place of anything else; the message names the file.
    """
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise DataError(f"{path}: too large: there is not enough memory to decode it") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large: {_first_line(error)}") from None
    # Parsers stumble over damaged files wherever they happen to: beside OSError and ValueError they were seen to raise
    # AssertionError, KeyError, AttributeError, TypeError, SyntaxError, struct.error, zlib.error.
    except Exception as error:
        raise DataError(f"{path}: truncated or damaged {kind}: {_first_line(error)}") from None


def open_image(file: BinaryIO, path: Path, kind: str) -> Image.Image:
    """Read a header with Pillow; no pixel is decoded yet.

    Raises:
        DataError: it is of no format that is read, damaged or too large; the message names it.
    """
    with decoding(path, kind):
        head = file.read(132)
        file.seek(0)
        formats = IMAGE_FORMATS
        if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
            formats = (*formats, *_heif_format(path))
        try:
            image = Image.open(file, formats=formats)
        except UnidentifiedImageError:
            raise _unidentified(path, head, _bytes_of(file)) from None
    require_readable_size(path, image.height, image.width, file)
    if image.mode in ("P", "PA") and (image.palette is None or not image.palette.palette):
        raise DataError(f"{path}: damaged {kind}: it shows a palette but has none")
    return image


def require_readable_size(path: Path, height: int, width: int, file: BinaryIO) -> None:
    """Raises DataError for an image that is not decoded because of its size, or has no pixels."""
    pixels, size = height * width, _bytes_of(file)
    if height < 1 or width < 1:
        raise DataError(f"{path}: damaged: {width}x{height} pixels")
    if pixels > MOST_PIXELS:
        raise DataError(
            f"{path}: too large: {width}x{height} pixels, {pixels:,} in all; images of up to {MOST_PIXELS:,} are read",
            hint="Cut it into smaller files.",
        )
    if pixels > max(_ALWAYS_BELIEVED, _MOST_PIXELS_A_BYTE * size):
        raise DataError(f"{path}: damaged: its header claims {width}x{height} pixels, in a file of {size:,} bytes")


def _heif_format(path: Path) -> tuple[str, ...]:
    """Names of readers for HEIC, which are registered when the first such file is opened."""
    if not has_heif():
        # Some AVIF files carry such a brand first; Pillow tells them apart.
        return ()
    import pillow_heif

    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _unidentified(path: Path, head: bytes, size: int) -> DataError:
    if size == 0:
        return DataError(f"{path}: the file is empty")
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and not has_heif():
        return DataError(f"{path}: a HEIC image, which is not read here", hint=_HEIF_HINT)
    for offset, signature, name in _OTHER_KINDS:
        if head[offset : offset + len(signature)] == signature:
            return DataError(f"{path}: {name}, which is not read", hint="Convert it to PNG, JPEG or TIFF.")
    return DataError(
        f"{path}: not an image, or its header is damaged",
        hint=f"The formats that are read: {', '.join(IMAGE_FORMATS)}.",
    )


def _bytes_of(file: BinaryIO) -> int:
    position = file.tell()
    size = file.seek(0, os.SEEK_END)
    file.seek(position)
    return size


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
