"""YOLO segmentation: a text file for each image, a line for each polygon, coordinates as shares of the image.

The format has no order, so smaller regions lie over larger ones. Images without a text file are no images without
objects, as nothing says that anyone looked at them; those with an empty one are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.class_files import read_classes
from protoseg_deploy.annotations.detecting import YOLO_CLASSES, Look
from protoseg_deploy.annotations.file_jobs import FileJob, read_bytes
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    BadRecordError,
    DeclaredClass,
    FoundImage,
    Notes,
    Polygons,
    Shape,
)
from protoseg_deploy.annotations.source import Source
from protoseg_deploy.errors import UsageError
from protoseg_deploy.text import shown

_NO_LABELS = ("classes.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt", "notes.txt")
_LARGEST_SHARE = 2.0
"""Beyond it, coordinates are no shares."""


@dataclass(frozen=True)
class YoloJob(FileJob):
    names: tuple[str, ...]

    def labels(self) -> set[str]:
        return set(self.names)

    def fingerprint(self) -> bytes:
        return repr(self.names).encode() + super().fingerprint()

    def locate(self, finder: ImageFinder) -> FoundImage:
        stem = self.relative.with_suffix("")
        folders = list(stem.parts[:-1])
        if "labels" in folders:
            place = len(folders) - 1 - folders[::-1].index("labels")
            folders[place] = "images"
        found = finder.find_stem("/".join([*folders, stem.name]))
        parts = list(found.relative.parts)
        if "images" in parts[:-1]:
            parts.remove("images")
        return FoundImage(found.path, Path(*parts))

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        size = finder.size(found)
        shapes: list[Shape] = []
        text = read_bytes(self.file).decode("utf-8-sig", "replace")
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                with notes.record(f"line {number}"):
                    shapes.append(self._shape(line.split(), size, f"line {number}"))
        return AnnotatedImage(size, tuple(shapes))

    def _shape(self, words: list[str], size: tuple[int, int], record: str) -> Shape:
        index = values.whole(words[0], "the class")
        if not 0 <= index < len(self.names):
            raise BadRecordError(f"class {index} is none of the {len(self.names)} names")
        if len(words) == 5:
            raise BadRecordError("4 coordinates: a box of YOLO detection, or two points; no polygon")
        numbers = [values.number(word, "a coordinate") for word in words[1:]]
        ring = values.ring(numbers)
        if np.abs(ring).max() > _LARGEST_SHARE:
            raise BadRecordError(f"the coordinate {shown(float(np.abs(ring).max()))}; they are shares from 0 to 1")
        return Shape(self.names[index], Polygons((ring * [size[1], size[0]],)), record)


@contextmanager
def open_yolo(look: Look) -> Iterator[Source]:
    """Open a folder of YOLO labels; see `Reader`."""
    path = look.path
    tables = sorted(
        look.named(*YOLO_CLASSES), key=lambda file: (len(file.parts), YOLO_CLASSES.index(file.name.lower()))
    )
    classes = read_classes(tables[0]) if tables else look.classes or ()
    texts = [file for file in look.ending(".txt") if file.name.lower() not in _NO_LABELS]
    in_labels = [file for file in texts if "labels" in file.relative_to(path).parts[:-1]]
    if not classes:
        raise UsageError(
            f"{path}: YOLO labels without names of their classes: no {', '.join(YOLO_CLASSES)}",
            "Name them with --classes, in the order of their numbers.",
        )
    names = tuple(one.name for one in classes)
    jobs = [YoloJob(file, path, names) for file in in_labels or texts]
    yield Source(
        "YOLO",
        lambda: iter(jobs),
        order="area",
        image_roots=(path / "images", path, path.parent / "images"),
        total=len(jobs),
        classes=tuple(DeclaredClass(one.name, one.color) for one in classes),
    )
