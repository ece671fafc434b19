"""An image file that is open: what its header says, and its values as they are stored.

Images and masks both start here, so that the picture in a file and its orientation are found in one way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data import tiff
from protoseg_deploy.data.formats import decoding, open_file, open_image
from protoseg_deploy.errors import DataError

UInt8Array = NDArray[np.uint8]
Kind = Literal["image", "mask"]

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
_UNDONE_BY = {6: 8, 8: 6}
_SIDES_SWAPPED = (5, 6, 7, 8)
# One frame of these is the photograph, the others are previews, depth or a burst.
_FIRST_FRAME_COUNTS = ("MPO", "HEIF")


@dataclass(frozen=True)
class Source:
    """An open file with one picture in it."""

    path: Path
    kind: Kind
    file: BinaryIO
    page: tiff.TiffPage | None
    """Of a TIFF."""
    image: Image.Image | None
    """What Pillow is to decode; None where tifffile is."""
    height: int
    """As stored."""
    width: int
    orientation: int
    """1 to 8: how EXIF says that it is to be turned."""
    exact: bool
    """16-bit colours are needed as they are."""

    def size(self, exif: str) -> tuple[int, int]:
        """Height and width as `turned` gives them."""
        swapped = exif == "apply" and self.orientation in _SIDES_SWAPPED
        return (self.width, self.height) if swapped else (self.height, self.width)

    def tiff_values(self) -> NDArray[Any]:
        """``[H,W,bands]`` as stored, of a TIFF that Pillow does not decode."""
        assert self.page is not None
        return tiff.decode(self.file, self.path, self.kind, self.page)

    def no_memory(self) -> DataError:
        """The error for a MemoryError."""
        pixels = f"{self.width}x{self.height} pixels, {self.height * self.width:,} in all"
        return DataError(f"{self.path}: too large: {pixels}, do not fit into the memory")

    @property
    def raw_mode(self) -> str:
        """What Pillow calls the way in which samples are stored, such as ``L;2``; known until it has decoded them."""
        tiles = getattr(self.image, "tile", [])
        arguments = tiles[0][3] if tiles else ""
        raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        return raw_mode if isinstance(raw_mode, str) else ""

    def turned(self, values: UInt8Array, exif: str) -> UInt8Array:
        """What was decoded, turned as EXIF says or as stored: of TIFFs Pillow has turned the pixels already.

        Args:
            values: ``[H,W]`` or ``[H,W,3]``.
            exif: ``apply`` or ``ignore``.
        """
        done = self.page is not None and self.image is not None
        if done and exif == "ignore":
            return _transposed(values, _UNDONE_BY.get(self.orientation, self.orientation))
        return _transposed(values, 1 if done or exif == "ignore" else self.orientation)


@contextmanager
def open_source(
    path: Path, kind: Kind, *, exact: bool, bands: Sequence[int] | None = None, content: BinaryIO | None = None
) -> Iterator[Source]:
    """Open a file and read its header; no pixel is decoded yet.

    Args:
        path: the file.
        content: what it holds, where that is in memory; `path` is only its name in messages then.
        kind: for messages.
        exact: 16-bit colours are needed as they are.
        bands: the bands that are needed, counted from 1; None: what the file shows.

    Raises:
        DataError: it cannot be opened, is of no format that is read, is too large, or holds several pictures.
    """
    with open_file(path) if content is None else nullcontext(content) as file:
        with decoding(path, kind):
            head = file.read(4)
            file.seek(0)
        page = tiff.first_page(file, path, kind) if tiff.is_tiff(head) else None
        if page is not None and not page.pillow_decodes(exact=exact, bands=bands):
            yield Source(path, kind, file, page, None, page.height, page.width, page.orientation, exact)
            return
        file.seek(0)
        image = open_image(file, path, kind)
        with decoding(path, kind):
            if page is not None:
                image.seek(page.index)
            else:
                _refuse_several_frames(image, path)
            # The method of the base class: the one of PNG decodes the whole image first to look behind the pixels.
            orientation = int(Image.Image.getexif(image).get(_ORIENTATION, 1))
        orientation = orientation if 1 <= orientation <= 8 else 1
        height, width = (image.height, image.width) if page is None else (page.height, page.width)
        yield Source(path, kind, file, page, image, height, width, orientation, exact)


def _refuse_several_frames(image: Image.Image, path: Path) -> None:
    if image.format in _FIRST_FRAME_COUNTS or not getattr(image, "is_animated", False):
        return
    # A GIF does not say how many. To pass over a frame Pillow decodes it, and it may be far larger than the first.
    counted = "at least 2" if image.format == "GIF" else str(getattr(image, "n_frames", 2))
    raise DataError(
        f"{path}: {image.format} with {counted} frames or pages; one image a file is expected",
        hint="Split files of several frames or pages into single images.",
    )


def _transposed(values: UInt8Array, orientation: int) -> UInt8Array:
    if orientation not in _TURNS:
        return values
    return np.array(Image.fromarray(values).transpose(_TURNS[orientation]))
