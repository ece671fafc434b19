"""Cityscapes: a JSON file of polygons for each image, drawn in their order, as its own label images are.

Masks hold the 19 classes that are evaluated; the other labels become 255, and so do pixels without a polygon. Groups
such as ``cargroup`` count as their class. License plates are not drawn: what lies below them shows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.file_jobs import JsonJob, read_json
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    DeclaredClass,
    FoundImage,
    Notes,
    Polygons,
    Shape,
    SkippedRecordError,
)
from protoseg_deploy.annotations.source import Source

_CLASSES = (
    ("road", (128, 64, 128)), ("sidewalk", (244, 35, 232)), ("building", (70, 70, 70)), ("wall", (102, 102, 156)),
    ("fence", (190, 153, 153)), ("pole", (153, 153, 153)), ("traffic light", (250, 170, 30)),
    ("traffic sign", (220, 220, 0)), ("vegetation", (107, 142, 35)), ("terrain", (152, 251, 152)),
    ("sky", (70, 130, 180)), ("person", (220, 20, 60)), ("rider", (255, 0, 0)), ("car", (0, 0, 142)),
    ("truck", (0, 0, 70)), ("bus", (0, 60, 100)), ("train", (0, 80, 100)), ("motorcycle", (0, 0, 230)),
    ("bicycle", (119, 11, 32)),
)  # fmt: skip
_IGNORED = frozenset(
    {"unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking"}
    | {"rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer"}
)
_KNOWN = _IGNORED | {name for name, _ in _CLASSES}
_ENDINGS = ("_gtFine_polygons", "_gtCoarse_polygons", "_polygons")


@dataclass(frozen=True)
class CityscapesJob(JsonJob):
    def labels_of(self, document: Any) -> Iterator[Any]:
        labels = (entry.get("label") for entry in document["objects"] if isinstance(entry, dict))
        yield from (_class_of(label) for label in labels if isinstance(label, str))

    def locate(self, finder: ImageFinder) -> FoundImage:
        stem = self.relative.with_suffix("").as_posix()
        for ending in _ENDINGS:
            stem = stem.removesuffix(ending)
        return finder.find_stem(stem, ("_leftImg8bit", ""))

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        document = values.mapping(read_json(self.file), "the file")
        size = values.size(document.get("imgHeight"), document.get("imgWidth"))
        shapes: list[Shape] = []
        for number, element in enumerate(values.sequence(document.get("objects"), "`objects`")):
            record = f"objects[{number}]"
            with notes.record(record):
                entry = values.mapping(element, "the object")
                if entry.get("deleted"):
                    raise SkippedRecordError("was deleted by its annotator")
                label = _class_of(values.text(entry.get("label"), "`label`"))
                if label == "license plate":
                    raise SkippedRecordError("a license plate is no region of its own")
                shapes.append(Shape(label, Polygons((values.ring(entry.get("polygon")),), rule="pixels"), record))
        return AnnotatedImage(size, tuple(shapes))


def _class_of(label: str) -> str:
    alone = label.removesuffix("group")
    return alone if label not in _KNOWN and alone in _KNOWN else label


@contextmanager
def open_cityscapes(look: Look) -> Iterator[Source]:
    """Open a folder of polygon files, or one of them; see `Reader`."""
    path = look.path
    root = path if path.is_dir() else path.parent
    jobs = [CityscapesJob(file, root) for file in look.ending("_polygons.json")]
    yield Source(
        "Cityscapes",
        lambda: iter(jobs),
        order="file",
        image_roots=tuple(dict.fromkeys([*_beside(root), root / "leftImg8bit", root])),
        total=len(jobs),
        classes=tuple(DeclaredClass(name, color) for name, color in _CLASSES),
        ignored=_IGNORED,
        unlabeled="ignore",
    )


def _beside(root: Path) -> Iterator[Path]:
    """``leftImg8bit/train`` of ``gtFine/train``."""
    root = root.absolute()
    for place in (root, *root.parents):
        if place.name in ("gtFine", "gtCoarse"):
            yield place.parent / "leftImg8bit" / root.relative_to(place)
