"""Image files as cameras, programs and attackers write them: read right or named, and the others are done."""

import os
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.corpus.image_cases import GOOD, Write, containing, either, index_of, predicting, reads, refuses
from tests.corpus.judging import Case, Place
from tests.corpus.kits import mirrored
from tests.corpus.launching import Ended
from tests.corpus.pictures import (
    GREY,
    PICTURE,
    bitmap,
    chunk,
    decoded,
    encoded,
    header,
    page,
    pixels,
    png,
    pyramid,
    tiff,
)
from tests.corpus.spoiling import cuts, flipped


def _exif(orientation: float, kind: int = 3) -> bytes:
    return b"Exif\0\0II*\0\10\0\0\0" + page({0x0112: (kind, [orientation])}, 8)


_JPEG = encoded(PICTURE, "JPEG", quality=95)
_PALETTE = Image.fromarray(PICTURE).quantize(16)
_ALPHA = np.dstack([PICTURE, np.where(GREY > 100, 255, 0).astype(np.uint8)])
_FOUR = np.dstack([PICTURE, np.random.default_rng(1).integers(0, 255, GREY.shape, dtype=np.uint8)])
_SIXTEEN = GREY.astype(np.uint16) * 257
_TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a),
}


def _grey(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([values] * 3)


ORDINARY = [
    reads("grey", "x.png", encoded(GREY, "PNG"), _grey(GREY)),
    reads("grey-16-bit", "x.png", encoded(_SIXTEEN, "PNG"), _grey(GREY)),
    reads("palette", "x.png", encoded(_PALETTE, "PNG"), np.asarray(_PALETTE.convert("RGB"))),
    reads("one-bit", "x.png", encoded(GREY > 100, "PNG"), _grey(np.where(GREY > 100, 255, 0).astype(np.uint8))),
    reads(
        "alpha-on-black", "x.png", encoded(_ALPHA, "PNG"), np.where(_ALPHA[..., 3:] > 0, PICTURE, 0).astype(np.uint8)
    ),
    reads("jpeg-called-png", "x.png", _JPEG, decoded(_JPEG)),
    reads("png-called-jpg", "x.jpg", encoded(PICTURE, "PNG"), PICTURE),
    reads("upper-case-ending", "x.PNG", encoded(PICTURE, "PNG"), PICTURE),
    reads("progressive-jpeg", "x.jpg", (p := encoded(PICTURE, "JPEG", progressive=True)), decoded(p)),
    reads("grey-jpeg", "x.jpg", (p := encoded(GREY, "JPEG")), decoded(p)),
    reads("jpeg-with-garbage-behind", "x.jpg", _JPEG + b"\0\xff" * 500, decoded(_JPEG)),
    reads("png-with-garbage-behind", "x.png", encoded(PICTURE, "PNG") + b"<?php exit(1) ?>" * 40, PICTURE),
    reads("webp-lossless", "x.webp", encoded(PICTURE, "WEBP", lossless=True), PICTURE),
    reads("gif-of-one-frame", "x.gif", (p := encoded(_PALETTE, "GIF")), decoded(p)),
    reads("bmp", "x.bmp", bitmap(), PICTURE),
    reads("bmp-top-down", "x.bmp", bitmap(PICTURE, height=-32), PICTURE[::-1]),
    reads(
        "ppm-in-digits",
        "x.ppm",
        b"P3\n# made by hand\n40 32\n255\n" + " ".join(map(str, PICTURE.ravel())).encode(),
        PICTURE,
    ),
    reads("pgm", "x.pgm", b"P5 40 32 255\n" + GREY.tobytes(), _grey(GREY)),
    reads("one-pixel", "x.png", encoded(PICTURE[:1, :1], "PNG"), PICTURE[:1, :1]),
    reads("one-row", "x.png", encoded(PICTURE[:1], "PNG"), PICTURE[:1]),
    *(
        reads(f"exif-orientation-{turn}", "x.png", encoded(PICTURE, "PNG", exif=_exif(turn)), turned(PICTURE))
        for turn, turned in _TURNS.items()
    ),
    *(
        reads(f"exif-orientation-{number}-is-none", "x.png", encoded(PICTURE, "PNG", exif=_exif(number)), PICTURE)
        for number in (0, 1, 9, 65535)
    ),
    either("exif-orientation-is-text", "x.png", encoded(PICTURE, "PNG", exif=_exif(65, kind=2)), PICTURE),
    either("exif-orientation-is-nan", "x.png", encoded(PICTURE, "PNG", exif=_exif(float("nan"), kind=12)), PICTURE),
    either("exif-is-noise", "x.jpg", (p := encoded(PICTURE, "JPEG", exif=b"Exif\0\0" + bytes(range(256)))), decoded(p)),
]

TIFFS = [
    reads("tiff", "x.tif", tiff(PICTURE), PICTURE),
    reads("tiff-big-endian", "x.tif", encoded(PICTURE, "TIFF", big_endian=True), PICTURE),
    reads("tiff-deflate", "x.tif", encoded(PICTURE, "TIFF", compression="tiff_adobe_deflate"), PICTURE),
    reads("tiff-planar", "x.tif", tiff(PICTURE, planar=2), PICTURE),
    reads("tiff-near-infrared-not-named", "x.tif", tiff(_FOUR), PICTURE),
    reads("tiff-near-infrared-unspecified", "x.tif", tiff(_FOUR, extra=[0]), PICTURE),
    reads("tiff-overviews", "x.tif", pyramid(PICTURE), PICTURE),
    either("tiff-planar-of-four", "x.tif", tiff(_FOUR, planar=2, extra=[0]), PICTURE),
    either("tiff-five-bands", "x.tif", tiff(np.dstack([_FOUR, GREY]), extra=[0, 0]), PICTURE),
    either(
        "tiff-five-bands-black-is-zero", "x.tif", tiff(np.dstack([_FOUR, GREY]), extra=[0] * 4, photometric=1), PICTURE
    ),
    either("tiff-two-bands", "x.tif", tiff(np.dstack([GREY, GREY]), extra=[0], photometric=1), _grey(GREY)),
    either("tiff-16-bit-rgb", "x.tif", tiff(PICTURE.astype(np.uint16) * 257), PICTURE),
    either("tiff-signed-bytes", "x.tif", tiff((PICTURE // 2).astype(np.int8))),
    refuses("tiff-two-pages", "x.tif", encoded(PICTURE, "TIFF", save_all=True, append_images=[Image.fromarray(GOOD)])),
    either("tiff-page-follows-itself", "x.tif", tiff(PICTURE, next_page=-1), PICTURE),
    either("tiff-next-page-outside", "x.tif", tiff(PICTURE, next_page=2**31), PICTURE),
    refuses("tiff-directory-outside", "x.tif", b"II*\0" + struct.pack("<I", 2**31)),
    refuses("tiff-directory-in-the-header", "x.tif", b"II*\0" + struct.pack("<I", 0) + PICTURE.tobytes()),
    refuses("tiff-no-pixels-named", "x.tif", tiff(PICTURE, {273: None, 279: None})),
    refuses("tiff-strip-outside", "x.tif", tiff(PICTURE, {273: (4, [2**31])})),
    either("tiff-strip-too-long", "x.tif", tiff(PICTURE, {279: (4, [2**31])}), PICTURE),
    either("tiff-strip-of-nothing", "x.tif", tiff(PICTURE, {279: (4, [0])}), PICTURE),
    refuses("tiff-width-0", "x.tif", tiff(PICTURE, {256: (3, [0])})),
    refuses("tiff-wider-than-its-pixels", "x.tif", tiff(PICTURE, {256: (4, [4000])})),
    refuses("tiff-height-of-millions", "x.tif", tiff(PICTURE, {257: (4, [2**31])})),
    refuses("tiff-3-bits", "x.tif", tiff(PICTURE, {258: (3, [3, 3, 3])})),
    refuses("tiff-bits-differ", "x.tif", tiff(PICTURE, {258: (3, [8, 8, 4])})),
    refuses("tiff-no-bits-named", "x.tif", tiff(PICTURE, {258: None})),
    refuses("tiff-compression-unknown", "x.tif", tiff(PICTURE, {259: (3, [65000])})),
    refuses("tiff-lzw-that-is-none", "x.tif", tiff(PICTURE, {259: (3, [5])})),
    refuses("tiff-jpeg-that-is-none", "x.tif", tiff(PICTURE, {259: (3, [7])})),
    refuses("tiff-0-bands", "x.tif", tiff(PICTURE, {277: (3, [0])})),
    refuses("tiff-65535-bands", "x.tif", tiff(PICTURE, {277: (3, [65535])})),
    refuses("tiff-void-samples", "x.tif", tiff(PICTURE, {339: (3, [4, 4, 4])})),
    either("tiff-planar-7", "x.tif", tiff(PICTURE, {284: (3, [7])}), PICTURE),
    refuses("tiff-tags-of-wrong-types", "x.tif", tiff(PICTURE, {256: (12, [40.5]), 257: (11, [float("nan")])})),
]

_IDAT = pixels()
LYING_PNGS = [
    reads("png-by-hand", "x.png", png(header(), _IDAT), PICTURE),
    refuses("png-signature-alone", "x.png", png(end=b"")),
    refuses("png-no-header", "x.png", png(_IDAT)),
    refuses("png-no-pixels", "x.png", png(header())),
    refuses("png-pixels-behind-the-end", "x.png", png(header(), end=chunk(b"IEND") + _IDAT)),
    refuses("png-no-palette", "x.png", png(header(40, 32, 8, 3), pixels(GREY // 64))),
    refuses("png-palette-of-nothing", "x.png", png(header(40, 32, 8, 3), chunk(b"PLTE"), pixels(GREY // 64))),
    either("png-palette-of-7-bytes", "x.png", png(header(40, 32, 8, 3), chunk(b"PLTE", b"\0" * 7), pixels(GREY // 64))),
    either("png-index-behind-the-palette", "x.png", png(header(40, 32, 8, 3), chunk(b"PLTE", b"\1\2\3"), pixels(GREY))),
    refuses("png-width-0", "x.png", png(header(0, 32), _IDAT)),
    refuses("png-height-0", "x.png", png(header(40, 0), _IDAT)),
    refuses("png-width-of-billions", "x.png", png(header(2**31 - 1, 1), _IDAT)),
    refuses("png-width-beyond-the-format", "x.png", png(header(2**32 - 1, 2**32 - 1), _IDAT)),
    refuses("png-3-bits", "x.png", png(header(40, 32, 3, 0), _IDAT)),
    refuses("png-color-type-5", "x.png", png(header(40, 32, 8, 5), _IDAT)),
    either("png-filter-method-9", "x.png", png(header(40, 32, 8, 2, 0, 9, 0), _IDAT), PICTURE),
    either("png-interlace-2", "x.png", png(header(40, 32, 8, 2, 0, 0, 2), _IDAT), PICTURE),
    refuses("png-filter-of-a-row-unknown", "x.png", png(header(), chunk(b"IDAT", zlib.compress(b"\x7f" * 121 * 32)))),
    refuses("png-pixels-are-no-zlib", "x.png", png(header(), chunk(b"IDAT", b"no zlib" * 50))),
    refuses("png-pixels-of-nothing", "x.png", png(header(), chunk(b"IDAT"))),
    refuses("png-header-checksum", "x.png", png(header()[:-4] + b"\0\0\0\0", _IDAT)),
    either("png-pixels-checksum", "x.png", png(header(), _IDAT[:-4] + b"\0\0\0\0"), PICTURE),
    refuses("png-header-of-4-bytes", "x.png", png(chunk(b"IHDR", b"\0\0\0\1"), _IDAT)),
    either("png-two-headers", "x.png", png(header(), header(8, 8), _IDAT)),
    refuses("png-chunk-longer-than-the-file", "x.png", png(header(), chunk(b"IDAT", b"x", length=2**31 - 1))),
    either(
        "png-text-bomb", "x.png", png(header(), chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 2**26)), _IDAT), PICTURE
    ),
    either("png-profile-is-noise", "x.png", png(header(), chunk(b"iCCP", b"name\0\0" + b"noise" * 9), _IDAT), PICTURE),
    either(
        "png-profile-bomb",
        "x.png",
        png(header(), chunk(b"iCCP", b"n\0\0" + zlib.compress(b"a" * 2**26)), _IDAT),
        PICTURE,
    ),
    either("png-physical-size-cut", "x.png", png(header(), chunk(b"pHYs", b"\0"), _IDAT), PICTURE),
    either("png-gamma-0", "x.png", png(header(), chunk(b"gAMA", b"\0\0\0\0"), _IDAT), PICTURE),
    either("png-gamma-cut", "x.png", png(header(), chunk(b"gAMA", b"\0"), _IDAT), PICTURE),
    either("png-transparency-cut", "x.png", png(header(), chunk(b"tRNS", b"\0"), _IDAT), PICTURE),
    either("png-animation-of-no-frames", "x.png", png(header(), chunk(b"acTL", b"\0" * 8), _IDAT), PICTURE),
    either("png-animation-control-cut", "x.png", png(header(), chunk(b"acTL", b"\0"), _IDAT), PICTURE),
    refuses("png-bomb", "x.png", png(header(60000, 60000, 1, 0), chunk(b"IDAT", zlib.compress(b"\0" * 10**6)))),
    either("png-end-is-missing", "x.png", png(header(), _IDAT, end=b""), PICTURE),
]

OTHER_LIES = [
    refuses("bmp-bits-3", "x.bmp", bitmap(bits=3)),
    refuses("bmp-width-negative", "x.bmp", bitmap(width=-40)),
    refuses("bmp-width-of-billions", "x.bmp", bitmap(width=2**31 - 1)),
    refuses("bmp-height-0", "x.bmp", bitmap(height=0)),
    refuses("bmp-pixels-outside", "x.bmp", bitmap(offset=2**31)),
    refuses("bmp-compression-unknown", "x.bmp", bitmap(compression=77)),
    refuses("bmp-header-of-1-byte", "x.bmp", bitmap(size=1)),
    refuses("bmp-header-of-billions", "x.bmp", bitmap(size=2**32 - 1)),
    refuses("ppm-width-negative", "x.ppm", b"P6 -40 32 255\n" + PICTURE.tobytes()),
    refuses("ppm-largest-value-0", "x.ppm", b"P6 40 32 0\n" + PICTURE.tobytes()),
    refuses("ppm-width-of-5000-digits", "x.ppm", b"P6 " + b"9" * 5000 + b" 32 255\n" + PICTURE.tobytes()),
    refuses("ppm-width-is-a-word", "x.ppm", b"P6 forty 32 255\n" + PICTURE.tobytes()),
    refuses("ppm-values-above-the-largest", "x.ppm", b"P3 2 1 3\n 9 9 9 9 9 9\n"),
    refuses("ppm-comment-without-end", "x.ppm", b"P6 #" + b"x" * 2**20),
    refuses("pam-that-is-none", "x.pnm", b"P7\nWIDTH 40\nENDHDR\n"),
    refuses("gif-without-frames", "x.gif", b"GIF89a" + struct.pack("<HHBBB", 40, 32, 0, 0, 0) + b";"),
    refuses(
        "gif-animation",
        "x.gif",
        encoded(_PALETTE, "GIF", save_all=True, append_images=[Image.fromarray(GOOD).quantize(16)]),
    ),
    refuses("webp-animation", "x.webp", encoded(PICTURE, "WEBP", save_all=True, append_images=[Image.fromarray(GOOD)])),
    refuses("webp-length-lies", "x.webp", b"RIFF\xff\xff\xff\xffWEBPVP8L" + b"\0" * 30),
    refuses("jpeg-start-alone", "x.jpg", b"\xff\xd8"),
    refuses("jpeg-no-tables", "x.jpg", b"\xff\xd8" + _JPEG[_JPEG.index(b"\xff\xc0") :]),
    refuses("jpeg-height-0", "x.jpg", _JPEG.replace(b"\xff\xc0\x00\x11\x08\x00\x20", b"\xff\xc0\x00\x11\x08\x00\x00")),
    refuses(
        "jpeg-65535-by-65535",
        "x.jpg",
        _JPEG.replace(b"\xff\xc0\x00\x11\x08\x00\x20\x00\x28", b"\xff\xc0\x00\x11\x08" + b"\xff" * 4),
    ),
    refuses("jpeg-segment-longer-than-the-file", "x.jpg", b"\xff\xd8\xff\xe1\xff\xff" + b"x" * 50),
    either(
        "cmyk-jpeg", "x.jpg", (p := encoded(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=95)), decoded(p)
    ),
    refuses("float-tiff", "x.tif", encoded(GREY.astype(np.float32), "TIFF")),
    refuses("float-tiff-of-nan", "x.tif", encoded(np.full((8, 8), np.nan, np.float32), "TIFF")),
]

_EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\n%%EndComments\n40 32 scale\nshowpage\n"
NO_IMAGES = [
    refuses("empty", "x.png", b""),
    refuses("one-byte", "x.png", b"\x89"),
    refuses("zeros", "x.tif", b"\0" * 5000),
    refuses("noise", "x.png", np.random.default_rng(0).bytes(5000)),
    refuses("text", "x.jpg", b"no image\n"),
    refuses("page-of-a-web-server", "x.jpg", b"<!DOCTYPE html><html><body>404 [/red]</body></html>"),
    refuses("pointer-of-git-lfs", "x.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64),
    refuses("svg", "x.png", b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="32"/>'),
    refuses("postscript-called-png", "x.png", _EPS),
    refuses(
        "postscript-called-tif",
        "x.tif",
        b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 32, len(_EPS), 0, 0, 0, 0) + b"\xff\xff\0\0" + _EPS,
    ),
    refuses("pdf", "x.png", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>"),
    refuses("zip", "x.png", b"PK\3\4" + b"\0" * 60),
    refuses("program", "x.png", b"\x7fELF\2\1\1" + b"\0" * 60),
    refuses("heic-called-jpg", "x.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 60),
    refuses("metafile", "x.bmp", b"\xd7\xcd\xc6\x9a" + b"\0" * 60),
    refuses(
        "fits",
        "x.tif",
        b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80) + b"END".ljust(80),
    ),
    refuses("named-pipe", "x.png", lambda path: os.mkfifo(path)),
    refuses("link-to-a-device", "x.png", lambda path: path.symlink_to("/dev/zero")),
    refuses(
        "link-to-a-pipe", "x.png", lambda path: (os.mkfifo(path.parent.parent / "pipe"), path.symlink_to("../pipe"))
    ),
]


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # such names are short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def _skipped(name: str, file: str, write: Write) -> Case:
    """It may be named or passed over; the others are done."""

    def check(place: Place, ended: Ended) -> None:
        for good in ("a-good.png", "z-good.png"):
            np.testing.assert_array_equal(index_of(place, good), mirrored(GOOD))

    return Case(name, predicting(file, write), (file,), right=check, after=check)


NOT_FILES = [
    _skipped("socket", "x.png", _socket),
    _skipped("folder-called-png", "x.png", lambda path: path.mkdir()),
    _skipped("link-to-nowhere", "x.png", lambda path: path.symlink_to("nowhere")),
    _skipped("link-to-itself", "x.png", lambda path: path.symlink_to("x.png")),
    _skipped("link-to-its-folder", "x.png", lambda path: path.symlink_to(".")),
    _skipped("link-to-the-folder-above", "x", lambda path: path.symlink_to("..")),
    _skipped("hidden-file", "._x.png", containing(b"\0\5\x16\7Mac OS X")),
    _skipped("file-of-another-kind", "x.heic", containing(b"\0\0\0\x18ftypheic")),
]

_WHOLE = {
    "x.png": encoded(PICTURE, "PNG"),
    "x.jpg": _JPEG,
    "x.tif": tiff(PICTURE),
    "y.tif": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "x.bmp": bitmap(),
    "x.gif": encoded(_PALETTE, "GIF"),
    "x.webp": encoded(PICTURE, "WEBP", lossless=True),
    "x.ppm": encoded(PICTURE, "PPM"),
}
CUT = [
    either(f"{file}-cut-to-{size}", file, content[:size], decoded(content))
    for file, content in _WHOLE.items()
    for size in cuts(len(content), 3)
]
FLIPPED = [
    either(f"{file}-{bits}-bits-flipped-{seed}", file, flipped(content, seed, bits))
    for file, content in _WHOLE.items()
    for seed, bits in ((2, 20),)
]

CASES = [*ORDINARY, *TIFFS, *LYING_PNGS, *OTHER_LIES, *NO_IMAGES, *NOT_FILES, *CUT, *FLIPPED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_image(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
