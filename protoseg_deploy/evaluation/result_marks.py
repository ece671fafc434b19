"""What a predicted PNG says of itself: of which image, by what. So results need no list beside them that could err.

The mark is a text chunk, the first after the header. It is part of the file, which appears whole or not at all: a
killed program leaves no results that claim to be others, and results may be copied, moved or deleted at will.
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, ValidationError

from protoseg_deploy.files import open_regular

_KEYWORD = "protoseg predict"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = b"\0\0\0\0IEND\xaeB`\x82"
_LARGEST = 1 << 20
"""Bytes of a mark; those of a thousand classes take ten thousand."""


class Mark(BaseModel):
    """What a result was made from; equal in the three PNGs of an image."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    image_sha256: str
    made_by: str
    """Digest of the artefact and of all that changes a result; see `made_by`."""
    class_pixels: tuple[int, ...]

    def chunk(self) -> PngInfo:
        """For Pillow's ``pnginfo``."""
        info = PngInfo()
        info.add_text(_KEYWORD, self.model_dump_json())
        return info


@dataclass(frozen=True)
class Result:
    """A complete PNG that bears a mark."""

    mark: Mark
    height: int
    width: int


def made_by(*parts: object) -> str:
    """Digest of what changes a result beside the image: artefact, library, options, version of this program."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def read_results(targets: Iterable[Path]) -> Result | None:
    """What the PNGs of one image have in common; None unless all are there, complete, and made from the same."""
    found = {_read(target) for target in targets}
    return found.pop() if len(found) == 1 else None


def is_result(target: Path, siblings: Iterable[Path]) -> bool:
    """Whether a file was written by `predict`: it says so, or, of a version without marks, its siblings are there."""
    return _read(target) is not None or all(sibling.is_file() for sibling in siblings)


def _read(path: Path) -> Result | None:
    try:
        with open_regular(path) as file:
            head = file.read(41)  # signature, header chunk, length and type of the next chunk
            if len(head) != 41 or head[:8] != _SIGNATURE or head[12:16] != b"IHDR" or head[37:] != b"tEXt":
                return None
            width, height, length = struct.unpack(">II9xI", head[16:37])
            if length > _LARGEST:
                return None
            text, checksum = file.read(length), file.read(4)
            file.seek(-len(_END), os.SEEK_END)
            if file.read() != _END or checksum != struct.pack(">I", zlib.crc32(b"tEXt" + text)):
                return None
    except OSError:
        return None
    keyword, _, content = text.partition(b"\0")
    if keyword != _KEYWORD.encode():
        return None
    try:
        return Result(Mark.model_validate_json(content), height, width)
    except ValidationError:
        return None
