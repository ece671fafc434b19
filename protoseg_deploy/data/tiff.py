"""TIFF files: which of their images is the picture, and what its tags say of its samples.

Tags are read first. Pillow decodes what is ordinary, 8-bit colours and grey, quickly and with all
compressions; tifffile what Pillow does not know or would change: more bands, planes, 12, 16 and 32 bits, float.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.formats import decoding, require_readable_size
from protoseg_deploy.errors import DataError

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REDUCED, _MASK = 1, 4
_MIN_IS_WHITE, _RGB, _PALETTE = 0, 2, 3
CMYK = 5
_YCBCR = 6
_PILLOW_GREY = {(1, "u"), (2, "u"), (4, "u"), (8, "u"), (16, "u"), (16, "i"), (32, "u"), (32, "i"), (32, "f")}
_LOSSY = {6: "JPEG", 7: "JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 50001: "WebP"}
_MOST_IFDS = 1_000
_CODEC_HINT = "pip install 'protoseg-deploy[tiff]' adds codecs; or save it uncompressed or with DEFLATE."


@dataclass(frozen=True)
class TiffPage:
    """The first image of a file that is neither an overview nor a mask of valid pixels, by its tags."""

    index: int
    """Its position in the chain of images."""
    height: int
    width: int
    bands: int
    """Samples of a pixel."""
    bits: int
    """Of a sample."""
    kind: Literal["u", "i", "f", "other"]
    """Unsigned, signed or floating-point samples; ``other``: complex ones, or bands of different bits."""
    photometric: int
    extra: tuple[int, ...]
    """Meaning of the bands beyond colours: 0 unknown, 1 alpha that colours are multiplied by, 2 alpha."""
    planar: bool
    """Bands lie one after the other."""
    compression: int
    orientation: int
    """1 to 8, as in EXIF."""

    @property
    def alpha(self) -> int | None:
        """The band, counted from 0, that the file declares as alpha; None: there is none."""
        colors = self.bands - len(self.extra)
        return next((colors + number for number, meaning in enumerate(self.extra) if meaning in (1, 2)), None)

    @property
    def is_premultiplied(self) -> bool:
        return 1 in self.extra

    @property
    def lossy(self) -> str | None:
        """Name of a compression that changes values; None for all others."""
        return _LOSSY.get(self.compression)

    @property
    def is_white_zero(self) -> bool:
        return self.photometric == _MIN_IS_WHITE

    def pillow_decodes(self, *, exact: bool, bands: Sequence[int] | None) -> bool:
        """Whether Pillow gives the values of the file, or the colours they stand for.

        Args:
            exact: its values themselves are needed; otherwise 16-bit colours may be cut to 8 bits.
            bands: those needed, counted from 1; None: colours, and alpha if there is one.
        """
        if self.photometric in (CMYK, _YCBCR, _PALETTE):
            return self.kind == "u" and self.bits <= 8 and not self.extra and (not self.planar or self.bands == 1)
        if self.bands == 1:
            return (self.bits, self.kind) in _PILLOW_GREY
        if self.photometric != _RGB or self.planar or self.kind != "u" or max(bands or (0,)) > 3:
            return False
        # Colours multiplied by alpha are divided by it in Pillow.
        colors = self.bands == 3 or (self.bands == 4 and self.extra in ((), (0,), (2,)))
        return colors and self.bits in ((8,) if exact else (8, 16))


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF or BigTIFF."""
    return head[:4] in _MAGIC


def first_page(file: BinaryIO, path: Path, kind: str) -> TiffPage:
    """The picture of a file, from its tags alone.

    Raises:
        DataError: the file is damaged, too large, or holds several pictures; the message names it.
    """
    with decoding(path, kind), _tifffile().TiffFile(file, name=path.name) as tiff:
        page = _page_of(tiff, path)
    require_readable_size(path, page.height, page.width, file)
    return page


def decode(file: BinaryIO, path: Path, kind: str, page: TiffPage) -> NDArray[Any]:
    """The samples of a picture as ``[H,W,bands]``, as stored: not turned, not scaled, of the type the file has.

    Raises:
        DataError: it is damaged, too large for the memory, or compressed in a way that cannot be read here.
    """
    file.seek(0)
    with decoding(path, kind), _tifffile().TiffFile(file, name=path.name) as tiff:
        found = tiff.pages[page.index]
        try:
            values: NDArray[Any] = found.asarray(maxworkers=1)
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
            name = getattr(found.compression, "name", str(page.compression))
            raise DataError(
                f"{path}: TIFF of {page.bands} bands and {page.bits} bits compressed with {name}: not read here",
                hint=_CODEC_HINT,
            ) from None
        axes = str(found.axes)
    if values.ndim == 2:
        return values[..., None]
    if axes.startswith("S"):
        values = np.moveaxis(values, 0, -1)
    if values.shape != (page.height, page.width, page.bands):
        raise DataError(
            f"{path}: TIFF of an unusual layout ({axes}) is not read", hint="Save it as a plain TIFF or PNG."
        )
    return values


def _page_of(tiff: Any, path: Path) -> TiffPage:
    picture, pictures = 0, 0
    for index in range(_MOST_IFDS):  # a chain of very many, or one without end, is not followed
        try:
            page = tiff.pages[index]
        except IndexError:
            break
        if not int(page.subfiletype) & (_REDUCED | _MASK):
            picture = index if pictures == 0 else picture
            pictures += 1
    if pictures > 1:
        raise DataError(
            f"{path}: TIFF with {pictures} frames or pages; one image a file is expected",
            hint="Split files of several frames or pages into single images.",
        )
    page = tiff.pages[picture]
    bits = page.tags.valueof(258, default=page.bitspersample)
    bits = bits if isinstance(bits, tuple) else (bits,)
    kind = {1: "u", 2: "i", 3: "f"}.get(int(page.sampleformat), "other") if len(set(bits)) == 1 else "other"
    tag = page.tags.get(274)
    orientation = tag.value if tag is not None and isinstance(tag.value, int) else 1
    if page.photometric == _RGB and int(page.bitspersample) < 8:  # 1 where the tag is missing or lies behind the end
        raise DataError(
            f"{path}: TIFF of colours of {page.bitspersample} bits: not read, or the file is truncated or damaged",
            hint="Save it with 8 or 16 bits a band.",
        )
    return TiffPage(
        index=picture,
        height=int(page.imagelength),
        width=int(page.imagewidth),
        bands=int(page.samplesperpixel),
        bits=int(page.bitspersample),
        kind=kind,  # type: ignore[arg-type]
        photometric=int(page.photometric) if page.photometric is not None else 1,
        extra=tuple(int(meaning) for meaning in page.extrasamples),
        planar=int(page.planarconfig) == 2,
        compression=int(page.compression),
        orientation=orientation if 1 <= orientation <= 8 else 1,
    )


def _tifffile() -> Any:
    import tifffile

    logging.getLogger("tifffile").addHandler(
        logging.NullHandler()
    )  # its doubts about a file become an error or nothing
    return tifffile
