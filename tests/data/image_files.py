"""Image files of many kinds, and what reading them should give; shared by the tests of reading."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy.data import image_size, read_image, read_mask
from protoseg_deploy.recipe import ImageReading, MaskReading

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
INDICES = RNG.integers(0, 4, (6, 9), dtype=np.uint8)

# What a viewer does to the stored pixels for each EXIF orientation, in NumPy.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def image_of(path: Path, **options: object) -> np.ndarray:
    return read_image(path, ImageReading(**options))


def mask_of(path: Path, **options: object) -> np.ndarray:
    return read_mask(path, MaskReading(**options))


def size_of(path: Path, **options: object) -> tuple[int, int]:
    return image_size(path, ImageReading(**options))


def save(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def packed_grey_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A grey PNG of 1, 2 or 4 bits, which Pillow cannot write."""
    rows = b""
    for row in values:
        digits = "".join(format(int(value), f"0{bits}b") for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")
    return write_png(path, (values.shape[1], values.shape[0], bits, 0), rows)


def deep_png(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16 bits with 2 to 4 bands, which Pillow cannot write."""
    kind = {2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return write_png(path, (values.shape[1], values.shape[0], 16, kind), rows)


def write_png(path: Path, header: tuple[int, int, int, int], rows: bytes) -> Path:
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path
