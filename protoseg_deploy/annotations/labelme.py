"""LabelMe: a JSON file for each image, with polygons, rectangles, circles and masks, in the order of drawing."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.bitmaps import decode_png, decode_text
from protoseg_deploy.annotations.detecting import Look, json_kind
from protoseg_deploy.annotations.file_jobs import JsonJob, read_json
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    BadRecordError,
    Bitmap,
    FoundImage,
    Notes,
    Polygons,
    Shape,
    SkippedRecordError,
)
from protoseg_deploy.annotations.source import Source
from protoseg_deploy.data.paths import trouble_with
from protoseg_deploy.text import shown

_NO_REGION = ("line", "linestrip", "point", "points")


@dataclass(frozen=True)
class LabelMeJob(JsonJob):
    def labels_of(self, document: Any) -> Iterator[Any]:
        shapes = (shape for shape in document["shapes"] if isinstance(shape, dict))
        yield from (shape.get("label") for shape in shapes if shape.get("shape_type") not in _NO_REGION)

    def locate(self, finder: ImageFinder) -> FoundImage:
        name = values.mapping(read_json(self.file), "the file").get("imagePath")
        if isinstance(name, str) and name.strip():
            ending = name.replace("\\", "/").rpartition("/")[2]
            beside = self.file.parent / name.replace("\\", "/")
            if "\0" not in name and not trouble_with(beside):
                return FoundImage(beside, self.relative.with_name(ending))
            try:
                return finder.find((self.relative.parent / ending).as_posix())
            except BadRecordError as error:
                missing = error
        else:
            missing = BadRecordError(f"`imagePath` is {shown(name)}, not the name of an image")
        try:
            return finder.find_stem(self.relative.with_suffix("").as_posix())
        except BadRecordError:
            raise missing from None

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        document = values.mapping(read_json(self.file), "the file")
        if document.get("imageHeight") is None or document.get("imageWidth") is None:
            size = finder.size(found)
        else:
            size = values.size(document["imageHeight"], document["imageWidth"])
        shapes: list[Shape] = []
        for number, entry in enumerate(values.sequence(document.get("shapes"), "`shapes`")):
            record = f"shapes[{number}]"
            with notes.record(record):
                shape = values.mapping(entry, "the shape")
                label = values.text(shape.get("label"), "`label`")
                shapes.append(Shape(label, _geometry(shape, size), record))
        return AnnotatedImage(size, tuple(shapes))


def _geometry(shape: dict[str, Any], size: tuple[int, int]) -> Polygons | Bitmap:
    kind = shape.get("shape_type") or "polygon"
    points = shape.get("points")
    if kind in _NO_REGION:
        raise SkippedRecordError(f"a {kind} covers no region")
    if kind == "mask":
        return _mask(shape, size)
    if kind in ("polygon", "oriented_rectangle"):
        return Polygons((values.ring(points),))
    if kind == "rectangle":
        (left, top), (right, bottom) = values.ring(points, "the rectangle", fewest=2)[[0, -1]].tolist()
        return Polygons((values.rectangle(left, top, right, bottom),))
    if kind == "circle":
        (x, y), (edge_x, edge_y) = values.ring(points, "the circle", fewest=2)[:2].tolist()
        radius = math.hypot(edge_x - x, edge_y - y)
        return Polygons((values.ellipse(x, y, radius, radius),))
    raise BadRecordError(f"shape_type {shown(kind)} is unknown")


def _mask(shape: dict[str, Any], size: tuple[int, int]) -> Bitmap:
    corners = values.ring(shape.get("points"), "the box of the mask", fewest=2)
    left, top = (round(value) for value in corners.min(axis=0).tolist())
    content = decode_text(values.text(shape.get("mask"), "`mask`"), "`mask`")
    return Bitmap(decode_png(content, size[0] * size[1], "`mask`"), left, top)


@contextmanager
def open_labelme(look: Look) -> Iterator[Source]:
    """Open a LabelMe file or a folder of them; see `Reader`."""
    path = look.path
    root = path if path.is_dir() else path.parent
    files = [file for file in look.ending(".json") if file == path or json_kind(file) in ("labelme", "")]
    jobs = [LabelMeJob(file, root) for file in files]
    yield Source("LabelMe", lambda: iter(jobs), order="file", image_roots=(root, root / "images"), total=len(jobs))
