"""An image with its mask, as files."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """An image and its mask, absolute paths."""

    image: Path
    mask: Path | None
