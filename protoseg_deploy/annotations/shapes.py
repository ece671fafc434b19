"""What every format of annotations is read into: images with labelled regions, and what was wrong with a record."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.recipe import Color

Ring = NDArray[np.float64]
"""``[N,2]`` corners (x, y) of a closed line in pixels; the centre of the first pixel is (0.5, 0.5)."""

BoolArray = NDArray[np.bool_]

FillRule = Literal["centres", "coco", "pixels"]
"""Which pixels a polygon covers: those whose centre lies inside; those that pycocotools covers; or, where corners are
the indices of pixels rather than coordinates, those inside and on the line, as Pillow draws it."""

Kind = Literal["bad", "skipped", "changed"]
"""What became of a record: it could not be used; it is none that a mask can show; or not as the file says."""


@dataclass(frozen=True)
class Polygons:
    """All that lies in one of the outer rings and in no hole; a ring that crosses itself is filled by parity."""

    outers: tuple[Ring, ...]
    holes: tuple[Ring, ...] = ()
    rule: FillRule = "centres"


@dataclass(frozen=True)
class Bitmap:
    """Pixels of a rectangle, which may reach over the borders of the image."""

    pixels: BoolArray
    """``[h,w]``"""
    left: int = 0
    top: int = 0


@dataclass(frozen=True)
class Shape:
    """One labelled region."""

    label: str
    geometry: Polygons | Bitmap
    record: str
    """Where it stands in its file, such as ``annotation 12``."""
    depth: int = 0
    """Higher ones lie over lower ones, where the format says so; of equal ones the later."""
    is_crowd: bool = False
    """A crowd: it becomes 255 and lies below everything."""


@dataclass(frozen=True)
class DeclaredClass:
    """A class that a source names."""

    name: str
    color: Color | None = None


@dataclass(frozen=True)
class Problem:
    """What is to be said of one record."""

    kind: Kind
    file: str
    record: str
    """Empty where it is the whole file."""
    reason: str
    image: str = ""
    """The image that it belongs to, as the source names it."""


class BadRecordError(Exception):
    """A record that cannot be used; the message says why."""


class SkippedRecordError(Exception):
    """A record that no mask can show, such as a point; the message says why."""


@dataclass
class Notes:
    """What was noticed of the records of one image."""

    file: str
    image: str = ""
    problems: list[Problem] = field(default_factory=list)

    def add(self, kind: Kind, record: str, reason: str) -> None:
        self.problems.append(Problem(kind, self.file, record, reason, self.image))

    @contextmanager
    def record(self, name: str) -> Iterator[None]:
        """What is raised of a record in the block is noted, and nothing is raised."""
        try:
            yield
        except BadRecordError as error:
            self.add("bad", name, str(error))
        except SkippedRecordError as error:
            self.add("skipped", name, str(error))
        except RecursionError:
            self.add("bad", name, "nested too deeply")


@dataclass(frozen=True)
class AnnotatedImage:
    """What a source says of one image."""

    size: tuple[int, int]
    """Height and width of what was annotated."""
    shapes: tuple[Shape, ...] = ()
    mask: NDArray[np.uint8] | None = None
    """``[H,W]`` indices of the declared classes of the source, 255 where none; in place of shapes."""


@dataclass(frozen=True)
class FoundImage:
    """The file of an annotated image."""

    path: Path
    relative: Path
    """Below the folder of images; names the mask."""
