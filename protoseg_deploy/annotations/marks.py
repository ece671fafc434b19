"""What a mask says of how it was made, so that a conversion can go on where it was stopped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, ValidationError

from protoseg_deploy.annotations.shapes import Kind, Problem
from protoseg_deploy.documents import dump_document

_KEYWORD = "protoseg convert"
_LARGEST = 1 << 18
"""Characters: Pillow reads no longer texts without being asked. A mask with more to say is made again."""


class _Problem(BaseModel):
    kind: Kind
    file: str
    record: str
    reason: str
    image: str


class _Mark(BaseModel):
    model_config = ConfigDict(strict=True)

    made_from: str
    class_pixels: dict[str, int]
    has_overlaps: bool
    problems: list[_Problem]


@dataclass(frozen=True)
class Mark:
    """Stands in a text chunk of the PNG."""

    made_from: str
    """Digest of annotations, image and settings."""
    class_pixels: dict[int, int]
    """Pixels by index, of those that occur."""
    has_overlaps: bool
    problems: tuple[Problem, ...]
    """What was noticed of its records."""

    def chunk(self) -> PngInfo:
        """For Pillow's ``pnginfo``."""
        text = dump_document(asdict(self), indent=None).decode()
        if len(text) > _LARGEST:
            text = dump_document(asdict(self) | {"made_from": "", "problems": []}, indent=None).decode()
        info = PngInfo()
        info.add_text(_KEYWORD, json.dumps(json.loads(text)))  # PNG texts are Latin-1: others are escaped
        return info


def read_mark(path: Path) -> Mark | None:
    """The mark of a file; None where there is none, or no such file."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            text = image.info.get(_KEYWORD, "")
        found = _Mark.model_validate_json(text)
    except (OSError, ValueError, SyntaxError, ValidationError):
        return None
    problems = tuple(Problem(**one.model_dump()) for one in found.problems)
    return Mark(found.made_from, {int(i): n for i, n in found.class_pixels.items()}, found.has_overlaps, problems)
