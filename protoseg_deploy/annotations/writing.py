"""Class maps as annotations that labelling tools load, to be corrected there."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.annotations.class_plan import BACKGROUND_LABELS
from protoseg_deploy.annotations.regions import Region, find_regions
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import require_inside
from protoseg_deploy.recipe import ClassTable

FOLDER = "annotations"
"""Below the folder of results."""


@dataclass(frozen=True)
class Predicted:
    """An image whose class map was written."""

    image: Path
    relative: Path
    """Below the folder of images, as tools know it."""
    index: Path
    """PNG of class indices."""
    unique: Path
    """As `relative`, but unlike that of any other image."""


@dataclass(frozen=True)
class Picture:
    """What is written of one image."""

    image: Path
    relative: Path
    size: tuple[int, int]
    regions: tuple[Region, ...]
    unique: Path
    """As `relative`, but unlike that of any other image."""

    @property
    def name(self) -> str:
        return self.relative.as_posix()


@dataclass(frozen=True)
class Written:
    """Result of `write_annotations`."""

    path: Path
    """A file or folder."""
    regions: int
    left_out: int
    """Regions below the smallest area."""


@dataclass(frozen=True)
class Task:
    """What is the same for all images of a call."""

    classes: ClassTable
    tolerance: float
    """Of polygons, in pixels."""
    min_area: int
    """Pixels of the smallest region that is written."""

    @property
    def labels(self) -> tuple[int, ...]:
        """Indices of the classes that are written: all but the background, which is what no region covers."""
        names = self.classes.names
        return tuple(index for index, name in enumerate(names) if name.casefold() not in BACKGROUND_LABELS)


def write_annotations(
    format_name: str,
    images: Iterable[Predicted],
    out: Path,
    task: Task,
    progress: Callable[[int], object] | None = None,
) -> Written:
    """Write the regions of class maps in a format of `PRE_ANNOTATION_FORMATS` below ``out/annotations``.

    Connected regions become polygons. Those with holes become run-length codes or bitmaps where polygons of the format
    have no holes (COCO, CVAT, LabelMe), and outlines with a cut to the hole in Label Studio. With tolerance 0,
    converting the result gives the class maps back; otherwise pixels that lie farther than the tolerance from the
    border of a region keep their class.

    Args:
        format_name: of the format.
        images: with their index PNGs, whose annotations are written in this order.
        out: the folder of results.
        task: classes, tolerance, smallest area.
        progress: called with the number of images done.

    Raises:
        UsageError: a file would be replaced that was not written here, or was changed since.
        WriteError: something cannot be written.
        ProtosegError: an index PNG is gone or damaged.
    """
    from protoseg_deploy.annotations import tool_files

    require_inside(out, out / FOLDER)
    counts = _Counts()
    pictures = _pictures(images, task, counts, progress)
    path = tool_files.WRITERS[format_name](pictures, out / FOLDER, task)
    return Written(path, counts.regions, counts.left_out)


@dataclass
class _Counts:
    regions: int = 0
    left_out: int = 0


def _pictures(
    images: Iterable[Predicted], task: Task, counts: _Counts, progress: Callable[[int], object] | None
) -> Iterator[Picture]:
    for done, image in enumerate(images, start=1):
        class_map = _read(image.index)
        found = list(find_regions(class_map, task.labels))
        kept = tuple(region for region in found if region.area >= task.min_area)
        counts.regions += len(kept)
        counts.left_out += len(found) - len(kept)
        height, width = class_map.shape
        yield Picture(image.image, image.relative, (height, width), kept, image.unique)
        if progress is not None:
            progress(done)


def _read(path: Path) -> NDArray[Any]:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.array(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ProtosegError(f"{path}: cannot be read: {error}", "Repeat the command without --skip-existing.") from None


def relative_link(image: Path, folder: Path) -> str:
    """The path of an image from a folder, with slashes."""
    return Path(os.path.relpath(image.absolute(), folder.absolute())).as_posix()
