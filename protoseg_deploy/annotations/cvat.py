"""CVAT for images 1.1: one XML file with polygons, boxes, ellipses and masks, each with a z-order."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.class_files import parse_color
from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.run_lengths import decode_runs
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
from protoseg_deploy.files import open_regular
from protoseg_deploy.text import shown

_NO_REGION = ("polyline", "points", "cuboid", "skeleton", "tag")
_REGIONS = ("polygon", "box", "mask", "ellipse")

Attributes = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class CvatJob(Job):
    file: Path
    attributes: Attributes
    """Of the image."""
    elements: tuple[tuple[str, Attributes], ...]
    """Tags and attributes of its shapes."""

    @property
    def name(self) -> str:
        return dict(self.attributes).get("name", "")

    def locate(self, finder: ImageFinder) -> FoundImage:
        return finder.find(values.text(self.name, "`name` of an image"))

    def fingerprint(self) -> bytes:
        return repr((self.attributes, self.elements)).encode("utf-8", "surrogateescape")

    def labels(self) -> set[str]:
        return {label for tag, pairs in self.elements if tag in _REGIONS and (label := dict(pairs).get("label"))}

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        own = dict(self.attributes)
        size = values.size(own.get("height"), own.get("width"))
        shapes: list[Shape] = []
        for number, (tag, pairs) in enumerate(self.elements, start=1):
            record = f"image {own.get('id', '?')}, {tag} {number}"
            with notes.record(record):
                entry = dict(pairs)
                if tag in _NO_REGION:
                    raise SkippedRecordError(f"a {tag} covers no region")
                label = values.text(entry.get("label"), "`label`")
                depth = values.whole(entry.get("z_order", 0), "`z_order`")
                shapes.append(Shape(label, _geometry(tag, entry, size), record, depth))
        return AnnotatedImage(size, tuple(shapes))


def _geometry(tag: str, entry: dict[str, str], size: tuple[int, int]) -> Polygons | Bitmap:
    def number(key: str) -> float:
        return values.number(entry.get(key), f"`{key}`")

    turn = values.number(entry.get("rotation", 0), "`rotation`")
    if tag == "polygon":
        points = [point.split(",") for point in entry.get("points", "").split(";") if point.strip()]
        if any(len(point) != 2 for point in points):
            raise BadRecordError(f"`points` are {shown(entry.get('points'))}, not x,y;x,y;…")
        return Polygons((values.ring(points),))
    if tag == "box":
        return Polygons((values.rectangle(number("xtl"), number("ytl"), number("xbr"), number("ybr"), turn),))
    if tag == "ellipse":
        return Polygons((values.ellipse(number("cx"), number("cy"), number("rx"), number("ry"), turn),))
    if tag == "mask":
        left, top, width, height = (values.whole(entry.get(key), f"`{key}`") for key in _BOX)
        if width < 1 or height < 1 or width * height > size[0] * size[1]:
            raise BadRecordError(f"a mask of {width}x{height} pixels in an image of {size[1]}x{size[0]}")
        try:
            runs = np.array(entry.get("rle", "").replace(",", " ").split(), dtype=np.int64)
        except (ValueError, OverflowError):
            raise BadRecordError("`rle` holds what is no whole number") from None
        return Bitmap(decode_runs(runs, height, width, by_column=False), left, top)
    raise BadRecordError(f"a shape <{tag}> is unknown")


_BOX = ("left", "top", "width", "height")


@contextmanager
def open_cvat(look: Look) -> Iterator[Source]:
    """Open a CVAT file; see `Reader`."""
    path = look.path
    labels: list[DeclaredClass] = []
    total = 0
    for element in _elements(path, ("meta", "image", "track")):
        if element.tag == "track":
            raise DataError(
                f"{path}: annotations of a video (tracks)", hint="Export from CVAT as `CVAT for images 1.1`."
            )
        if element.tag == "image":
            total += 1
        else:
            for label in element.iter("label"):
                if name := (label.findtext("name") or "").strip():
                    labels.append(DeclaredClass(name, parse_color(label.findtext("color"))))
    folder = path.parent
    yield Source(
        "CVAT",
        lambda: _jobs(path),
        order="file",
        image_roots=(folder, folder / "images"),
        total=total,
        classes=tuple(labels) or None,
    )


def _jobs(path: Path) -> Iterator[Job | Problem]:
    for element in _elements(path, ("image",)):
        shapes = tuple((child.tag, tuple(child.attrib.items())) for child in element)
        yield CvatJob(path, tuple(element.attrib.items()), shapes)


def _elements(path: Path, tags: tuple[str, ...]) -> Iterator[Any]:
    """Elements right below the top, one at a time; the others are dropped.

    Raises:
        DataError: the file cannot be read, is no XML, or declares entities.
    """
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import iterparse

    try:
        with open_regular(path) as file:
            depth, root = 0, None
            for event, element in iterparse(file, events=("start", "end"), forbid_dtd=True):
                depth += 1 if event == "start" else -1
                root = element if root is None else root
                if event == "end" and depth == 1:
                    if element.tag in tags:
                        yield element
                    root.clear()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except ParseError as error:
        raise DataError(f"{path}: not valid XML: {error}; was it cut off while it was copied or written?") from None
    except DefusedXmlException:
        raise DataError(f"{path}: XML with a document type or entities, which CVAT does not write") from None
    except (ValueError, LookupError) as error:
        raise DataError(f"{path}: not valid XML: {error}") from None
