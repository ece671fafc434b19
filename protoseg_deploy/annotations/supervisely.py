"""Supervisely: a JSON file for each image, with bitmaps and polygons, which may have holes, in their order.

Corners of polygons and rectangles are indices of pixels, and pixels on the line belong to them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.bitmaps import decode_png, decode_text, inflate
from protoseg_deploy.annotations.class_files import parse_color
from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.file_jobs import JsonJob, read_json
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    BadRecordError,
    Bitmap,
    DeclaredClass,
    FoundImage,
    Notes,
    Polygons,
    Shape,
    SkippedRecordError,
)
from protoseg_deploy.annotations.source import Source
from protoseg_deploy.errors import DataError
from protoseg_deploy.text import shown

_NO_REGION = ("line", "point", "graph", "cuboid", "any", "alpha_mask")
_MOST_BYTES_A_PIXEL = 8
_HEADERS = 1 << 16


@dataclass(frozen=True)
class SuperviselyJob(JsonJob):
    def labels_of(self, document: Any) -> Iterator[Any]:
        yield from (entry.get("classTitle") for entry in document["objects"] if isinstance(entry, dict))

    def locate(self, finder: ImageFinder) -> FoundImage:
        folders = [part for part in self.relative.parts[:-1] if part != "ann"]
        image = self.relative.name[: -len(".json")]
        for below in ("img", ""):
            try:
                return finder.find("/".join(filter(None, [*folders, below, image])))
            except BadRecordError as error:
                missing = error
        try:
            return finder.find_stem("/".join([*folders, "img", image]))  # of early exports, without its ending
        except BadRecordError:
            raise missing from None

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        document = values.mapping(read_json(self.file), "the file")
        sides = values.mapping(document.get("size"), "`size`")
        size = values.size(sides.get("height"), sides.get("width"))
        shapes: list[Shape] = []
        for number, element in enumerate(values.sequence(document.get("objects"), "`objects`")):
            record = f"objects[{number}]"
            with notes.record(record):
                entry = values.mapping(element, "the object")
                label = values.text(entry.get("classTitle"), "`classTitle`")
                shapes.append(Shape(label, _geometry(entry, size), record))
        return AnnotatedImage(size, tuple(shapes))


def _geometry(entry: dict[str, Any], size: tuple[int, int]) -> Polygons | Bitmap:
    kind = entry.get("geometryType") or ("bitmap" if entry.get("bitmap") else "polygon")
    if kind in _NO_REGION:
        raise SkippedRecordError(f"a geometry of type {kind} covers no region")
    if kind == "bitmap":
        return _bitmap(values.mapping(entry.get("bitmap"), "`bitmap`"), size)
    points = values.mapping(entry.get("points"), "`points`")
    if kind == "rectangle":
        (x, y), (other_x, other_y) = values.ring(points.get("exterior"), "the rectangle", fewest=2)[:2].tolist()
        corners = values.rectangle(min(x, other_x), min(y, other_y), max(x, other_x), max(y, other_y))
        return Polygons((corners,), rule="pixels")
    if kind == "polygon":
        outer = values.ring(points.get("exterior"))
        holes = values.sequence(points.get("interior") or [], "`interior`")
        return Polygons((outer,), tuple(values.ring(hole, "a hole") for hole in holes), rule="pixels")
    raise BadRecordError(f"geometryType {shown(kind)} is unknown")


def _bitmap(entry: dict[str, Any], size: tuple[int, int]) -> Bitmap:
    pixels = size[0] * size[1]
    origin = values.sequence(entry.get("origin"), "`origin`")
    if len(origin) != 2:
        raise BadRecordError(f"`origin` is {shown(origin)}, not [x, y]")
    packed = decode_text(values.text(entry.get("data"), "`data`"), "`data`")
    png = inflate(packed, pixels * _MOST_BYTES_A_PIXEL + _HEADERS, "`data`")
    left, top = (values.whole(value, "`origin`") for value in origin)
    return Bitmap(decode_png(png, pixels, "`data`"), left, top)


@contextmanager
def open_supervisely(look: Look) -> Iterator[Source]:
    """Open a project: a folder with ``meta.json``; see `Reader`."""
    path = look.path
    meta = path / "meta.json"
    try:
        entries = values.sequence(values.mapping(read_json(meta), "the file").get("classes"), "`classes`")
        classes = [
            DeclaredClass(values.text(values.mapping(entry, "a class").get("title"), "`title`"), _color(entry))
            for entry in entries
        ]
    except BadRecordError as error:
        raise DataError(f"{meta}: {error}") from None
    files = [file for file in look.ending(".json") if file.parent.name == "ann"]
    jobs = [SuperviselyJob(file, path) for file in files]
    yield Source(
        "Supervisely",
        lambda: iter(jobs),
        order="file",
        image_roots=(path, path / "img"),
        total=len(jobs),
        classes=tuple(classes),
    )


def _color(entry: dict[str, Any]) -> Any:
    return parse_color(entry.get("color"))
