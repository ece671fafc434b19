"""Image files written byte by byte, so that every field of them can lie."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.corpus.kits import scene

PICTURE = scene(7)[0]
"""What most files show, ``[32,40,3]``."""
GREY = PICTURE[..., 0]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def encoded(image: NDArray[Any] | Image.Image, kind: str, **options: Any) -> bytes:
    """A file as Pillow writes it."""
    file = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(content: bytes) -> NDArray[np.uint8]:
    """What Pillow reads from a file, as RGB; the reference where a format loses something."""
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def chunk(kind: bytes, content: bytes = b"", *, crc: int | None = None, length: int | None = None) -> bytes:
    """One chunk of a PNG."""
    checksum = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content) if length is None else length) + kind + content + struct.pack(">I", checksum)


def header(width: int = 40, height: int = 32, bits: int = 8, color: int = 2, *rest: int) -> bytes:
    """The first chunk of a PNG; `rest` are compression, filter and interlace methods."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, *(rest or (0, 0, 0))))


def png(*chunks: bytes, end: bytes | None = None) -> bytes:
    return PNG_SIGNATURE + b"".join(chunks) + (chunk(b"IEND") if end is None else end)


def pixels(image: NDArray[Any] = PICTURE) -> bytes:
    """The data chunk of a PNG whose rows are not filtered."""
    rows = b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in image)
    return chunk(b"IDAT", zlib.compress(rows, 1))


_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 9: "i", 11: "f", 12: "d"}

Fields = dict[int, tuple[int, Sequence[float]]]
"""Fields of a TIFF page: tag to (type, values)."""


def fields_of(image: NDArray[Any], *, planar: int = 1, extra: Sequence[int] = (), photometric: int = 2) -> Fields:
    """Fields of an uncompressed page ``[H,W,C]``; offsets are those of data that start at byte 8."""
    height, width, bands = image.shape
    strips = 1 if planar == 1 else bands
    size = image.nbytes // strips
    kind = {"u": 1, "i": 2, "f": 3}[image.dtype.kind]
    fields: Fields = {
        256: (3, [width]),
        257: (3, [height]),
        258: (3, [image.itemsize * 8] * bands),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [8 + number * size for number in range(strips)]),
        277: (3, [bands]),
        278: (3, [height]),
        279: (4, [size] * strips),
        284: (3, [planar]),
        339: (3, [kind] * bands),
    }
    if extra:
        fields[338] = (3, list(extra))
    return fields


def tiff(image: NDArray[Any], changes: Mapping[int, Any] = {}, *, next_page: int = 0, **options: Any) -> bytes:
    """An uncompressed little-endian TIFF of one page.

    Args:
        image: ``[H,W,C]``.
        changes: tag to (type, values), or None to leave it out.
        next_page: offset of the page after it; -1: of itself.
        options: see `fields_of`.
    """
    fields = {**fields_of(image, **options), **changes}
    data = (
        image.tobytes() if options.get("planar", 1) == 1 else np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()
    )
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + page(fields, 8 + len(data), next_page)


def page(fields: Mapping[int, tuple[int, Sequence[float]] | None], offset: int, next_page: int = 0) -> bytes:
    """A directory of fields that will lie at `offset` of its file."""
    entries = sorted((tag, field) for tag, field in fields.items() if field is not None)
    behind = offset + 2 + 12 * len(entries) + 4
    directory, values = struct.pack("<H", len(entries)), b""
    for tag, (kind, content) in entries:
        raw = struct.pack(f"<{len(content)}{_TYPES[kind]}", *content)
        if len(raw) <= 4:
            directory += struct.pack("<HHI", tag, kind, len(content)) + raw.ljust(4, b"\0")
        else:
            directory += struct.pack("<HHII", tag, kind, len(content), behind + len(values))
            values += raw + b"\0" * (len(raw) % 2)
    return directory + struct.pack("<I", offset if next_page == -1 else next_page) + values


def pyramid(image: NDArray[np.uint8]) -> bytes:
    """A TIFF with two overviews, as a cloud-optimised GeoTIFF has them."""
    pages = [image, image[::2, ::2], image[::4, ::4]]
    content, places = b"II*\0\0\0\0\0", []
    for number, level in enumerate(pages):
        fields = fields_of(level) | {254: (4, [int(number > 0)])}
        fields[273] = (4, [len(content)])
        content += np.ascontiguousarray(level).tobytes()
        places.append(len(content))
        content += page(fields, len(content))
    for number, place in enumerate(places):  # the first page is named in the header, each other one by the one before
        before = 4 if number == 0 else places[number - 1] + 2 + 12 * 12
        content = content[:before] + struct.pack("<I", place) + content[before + 4 :]
    return content


def bitmap(image: NDArray[np.uint8] = PICTURE, **changes: int) -> bytes:
    """A BMP of 24 bits, bottom row first; `changes` are fields of its header."""
    height, width, _ = image.shape
    rows = b"".join(row[:, ::-1].tobytes().ljust((3 * width + 3) // 4 * 4, b"\0") for row in image[::-1])
    field = {
        "offset": 54, "size": 40, "width": width, "height": height, "planes": 1, "bits": 24, "compression": 0,
        "bytes": len(rows), "x": 0, "y": 0, "colors": 0, "important": 0,
    } | changes  # fmt: skip
    names = ("size", "width", "height", "planes", "bits", "compression", "bytes", "x", "y", "colors", "important")
    information = struct.pack("<IiiHHIIiiII", *(field[name] for name in names))
    return struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, field["offset"]) + information + rows
