"""COCO JSON: polygons, run-length codes compressed and not, crowds.

The format has no order, so smaller regions lie over larger ones. Crowds (``iscrowd``) and regions marked ``ignore``
become 255. Polygons cover the pixels that pycocotools covers. Masks hold the categories in the order of the file.
"""

import json
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.json_stream import stream_elements
from protoseg_deploy.annotations.run_lengths import decode_runs, parse_coco_counts
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    BadRecordError,
    Bitmap,
    DeclaredClass,
    FoundImage,
    Notes,
    Polygons,
    Problem,
    Shape,
    SkippedRecordError,
)
from protoseg_deploy.annotations.source import Job, Source
from protoseg_deploy.errors import DataError
from protoseg_deploy.text import shown


@dataclass(frozen=True)
class CocoJob(Job):
    file: Path
    file_name: str
    height: Any
    width: Any
    lines: tuple[bytes, ...]
    """Its annotations, as JSON."""
    categories: dict[int, str]

    @property
    def name(self) -> str:
        return self.file_name

    def locate(self, finder: ImageFinder) -> FoundImage:
        return finder.find(self.file_name)

    def fingerprint(self) -> bytes:
        return b"\n".join([repr((self.height, self.width, self.categories)).encode(), *self.lines])

    def labels(self) -> set[str]:
        return set(self.categories.values())

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        size = values.size(self.height, self.width)
        shapes: list[Shape] = []
        for number, line in enumerate(self.lines, start=1):
            annotation = json.loads(line)
            record = f"annotation {shown(annotation.get('id', f'number {number} of {self.file_name}'))}"
            with notes.record(record):
                shapes.append(self._shape(annotation, size, record))
        return AnnotatedImage(size, tuple(shapes))

    def _shape(self, annotation: dict[str, Any], size: tuple[int, int], record: str) -> Shape:
        category = annotation.get("category_id")
        if not isinstance(category, int) or category not in self.categories:
            raise BadRecordError(f"category_id {shown(category)} is none of the categories")
        segmentation = annotation.get("segmentation")
        if not segmentation:
            raise SkippedRecordError("has no segmentation, only a box or keypoints")
        is_crowd = bool(annotation.get("iscrowd") or annotation.get("ignore"))
        geometry = _geometry(segmentation, size)
        return Shape(self.categories[category], geometry, record, is_crowd=is_crowd)


def _geometry(segmentation: Any, size: tuple[int, int]) -> Polygons | Bitmap:
    if isinstance(segmentation, list):
        rings = segmentation if isinstance(segmentation[0], list) else [segmentation]
        return Polygons(tuple(values.ring(ring) for ring in rings), rule="coco")
    code = values.mapping(segmentation, "the segmentation")
    sides = values.sequence(code.get("size"), "its size")
    if len(sides) != 2 or values.size(*sides) != size:
        raise BadRecordError(f"run lengths for {shown(sides)} (height, width), its image has {list(size)}")
    counts = code.get("counts")
    runs = parse_coco_counts(counts) if isinstance(counts, str) else values.sequence(counts, "`counts`")
    return Bitmap(decode_runs(runs, *size, by_column=True))


@dataclass
class _Spool:
    """A COCO file, sorted by images: annotations lie in a temporary file, their places in memory."""

    file: IO[bytes]
    images: dict[Any, tuple[str, Any, Any]] = field(default_factory=dict)
    categories: list[tuple[int, str]] = field(default_factory=list)
    owners: "array[int]" = field(default_factory=lambda: array("q"))
    """Number of the image of each annotation; -1: of none."""
    ends: "array[int]" = field(default_factory=lambda: array("q"))
    problems: list[Problem] = field(default_factory=list)


@contextmanager
def open_coco(look: Look) -> Iterator[Source]:
    """Open a COCO file; see `Reader`."""
    path = look.path
    with tempfile.TemporaryFile(prefix="protoseg-coco-") as file:
        spool = _Spool(file)
        image_ids = array("q")
        keys = set()
        for key, element in stream_elements(path):
            keys.add(key)
            if key == "images":
                _take_image(spool, path, element)
            elif key == "categories":
                _take_category(spool, path, element)
            elif key == "annotations":
                _take_annotation(spool, path, element, image_ids)
        if missing := sorted({"images", "categories"} - keys):
            raise DataError(f"{path}: no COCO annotations: `{'` and `'.join(missing)}` missing or empty")
        numbers = {image: number for number, image in enumerate(spool.images)}
        spool.owners = array("q", (numbers.get(image, -1) for image in image_ids))
        yield Source(
            "COCO",
            lambda: _jobs(spool, path),
            order="area",
            image_roots=_image_roots(path),
            total=len(spool.images),
            classes=tuple(DeclaredClass(name) for name in dict.fromkeys(name for _, name in spool.categories)),
        )


def _image_roots(path: Path) -> tuple[Path, ...]:
    """Of ``annotations/instances_train.json``: the folders beside ``annotations``, and those in ``images``.

    Of several in ``images``, only those count whose name is in that of the file, if there are such.
    """
    folder = path.parent
    roots = [folder, folder / "images"]
    if folder.name == "annotations":
        roots += [folder.parent, *_folders(folder.parent)]
    for images in [root for root in roots if root.name == "images"]:
        parts = _folders(images)
        named = [part for part in parts if part.name in path.stem]
        roots += named or (parts if len(parts) <= _MOST_PARTS else [])
    return tuple(dict.fromkeys(root for root in roots if root != folder or root.name != "annotations"))


def _folders(folder: Path) -> list[Path]:
    return sorted(place for place in folder.iterdir() if place.is_dir()) if folder.is_dir() else []


def _take_image(spool: _Spool, path: Path, element: Any) -> None:
    notes = Notes(str(path))
    where = f"image {shown(element.get('id'))}" if isinstance(element, dict) else "image"
    with notes.record(where):
        entry = values.mapping(element, "an image")
        name, number = values.text(entry.get("file_name"), "`file_name`"), values.whole(entry.get("id"), "`id`")
        if number in spool.images:
            raise BadRecordError(f"{name}: the id is that of {spool.images[number][0]} too; the first one is kept")
        spool.images[number] = (name, entry.get("height"), entry.get("width"))
    spool.problems += notes.problems


def _take_category(spool: _Spool, path: Path, element: Any) -> None:
    notes = Notes(str(path))
    with notes.record(f"category {shown(element)}"):
        entry = values.mapping(element, "a category")
        spool.categories.append((values.whole(entry.get("id"), "`id`"), values.text(entry.get("name"), "`name`")))
    spool.problems += notes.problems


def _take_annotation(spool: _Spool, path: Path, element: Any, image_ids: "array[int]") -> None:
    notes = Notes(str(path))
    where = f"annotation {shown(element.get('id'))}" if isinstance(element, dict) else "annotation"
    with notes.record(where):
        image = values.whole(values.mapping(element, "an annotation").get("image_id"), "`image_id`")
        kept = {key: element[key] for key in _USED if key in element}
        spool.file.write(json.dumps(kept, separators=(",", ":")).encode())
        spool.ends.append(spool.file.tell())
        image_ids.append(image)
    spool.problems += notes.problems


_MOST_PARTS = 8
"""Folders in ``images`` that are taken for parts of a data set, such as ``train``; more are folders of file names."""
_USED = ("id", "category_id", "segmentation", "iscrowd", "ignore")


def _jobs(spool: _Spool, path: Path) -> Iterator[Job | Problem]:
    yield from spool.problems
    ends = np.array(spool.ends, dtype=np.int64)
    starts = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    order = np.argsort(np.array(spool.owners, dtype=np.int64), kind="stable")
    owners = np.array(spool.owners, dtype=np.int64)[order]

    def lines(first: int, last: int) -> Iterator[bytes]:
        for place in order[first:last].tolist():
            spool.file.seek(int(starts[place]))
            yield spool.file.read(int(ends[place] - starts[place]))

    for line in lines(0, int(np.searchsorted(owners, 0))):
        record = f"annotation {shown(json.loads(line).get('id'))}"
        yield Problem("bad", str(path), record, "its image_id is that of no image")
    categories = dict(spool.categories)
    for number, (name, height, width) in enumerate(spool.images.values()):
        first, last = (int(np.searchsorted(owners, number + more)) for more in (0, 1))
        yield CocoJob(path, name, height, width, tuple(lines(first, last)), categories)
