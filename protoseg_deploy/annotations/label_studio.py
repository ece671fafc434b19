"""Label Studio's JSON export: brushes, polygons, rectangles and ellipses, coordinates in percent, in their order."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from protoseg_deploy.annotations import values
from protoseg_deploy.annotations.brush import decode_brush
from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.json_stream import stream_elements
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    BadRecordError,
    Bitmap,
    FoundImage,
    Notes,
    Polygons,
    Problem,
    Shape,
    SkippedRecordError,
)
from protoseg_deploy.annotations.source import Job, Source
from protoseg_deploy.data.paths import is_image_name
from protoseg_deploy.text import shown

_KINDS = ("brush", "polygon", "rectangle", "ellipse")
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")


@dataclass(frozen=True)
class TaskJob(Job):
    file: Path
    task: bytes
    """As JSON."""
    number: int

    @property
    def name(self) -> str:
        image = _image_of(json.loads(self.task))
        return image if isinstance(image, str) else f"task number {self.number}"

    def locate(self, finder: ImageFinder) -> FoundImage:
        task = json.loads(self.task)
        try:
            return self._find(finder, values.text(_image_of(task), "the image of the task"))
        except BadRecordError as missing:
            uploaded = task.get("file_upload")
            if not isinstance(uploaded, str) or not uploaded:
                raise
            try:
                return self._find(finder, uploaded)
            except BadRecordError:
                raise missing from None

    def _find(self, finder: ImageFinder, name: str) -> FoundImage:
        parts = urlsplit(name)
        path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
        try:
            return finder.find(path)
        except BadRecordError as missing:
            folder, _, last = path.rpartition("/")
            match = _UPLOADED.fullmatch(last)
            if match is None:
                raise
            try:
                return finder.find(f"{folder}/{match[1]}")
            except BadRecordError:
                raise missing from None

    def fingerprint(self) -> bytes:
        return self.task

    def labels(self) -> set[str]:
        found: set[str] = set()
        try:
            for result in _results(json.loads(self.task), Notes("")):
                found.update(label for label in _labels_of(result.get("value", {})) if isinstance(label, str))
        except (BadRecordError, AttributeError, TypeError):  # told when it is read
            pass
        return found

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        task = values.mapping(json.loads(self.task), "the task")
        results = _results(task, notes)
        named = {_identity(result): labels for result in results if (labels := _labels_of(result.get("value", {})))}
        size = finder.size(found)
        shapes: list[Shape] = []
        regions = {_identity(result) for result in results if "id" in result and _is_region(result)}
        for number, result in enumerate(results, start=1):
            identity = _identity(result)
            record = f"task {shown(task.get('id', self.number))}, region {shown(result.get('id') or number)}"
            if identity in regions and not _is_region(result):
                continue  # the label, or another property, of a region that is a result of its own
            with notes.record(record):
                shapes.append(_shape(result, named.get(identity, []), size, record, notes))
        return AnnotatedImage(size, tuple(shapes))


def _identity(result: dict[str, Any]) -> str:
    """The id, whatever its type."""
    return repr(result.get("id"))


def _is_region(result: dict[str, Any]) -> bool:
    return str(result.get("type", "")).removesuffix("labels") in _KINDS


def _shape(result: dict[str, Any], labels: list[Any], size: tuple[int, int], record: str, notes: Notes) -> Shape:
    kind = str(result.get("type", "")).removesuffix("labels")
    value = values.mapping(result.get("value"), "`value`")
    if kind not in _KINDS:
        raise SkippedRecordError(f"a result of type {shown(result.get('type'))} is no region")
    if result.get("original_height") is not None:
        said = values.size(result.get("original_height"), result.get("original_width"))
        if said != size:
            raise BadRecordError(f"annotated at {said[1]}x{said[0]} pixels, its image has {size[1]}x{size[0]}")
    if values.number(result.get("image_rotation", 0) or 0, "`image_rotation`") % 360:
        raise BadRecordError("its image was turned in Label Studio: turn the file and annotate it again")
    label = values.text(labels[0] if labels else None, "the label")
    if len(labels) > 1:
        notes.add("changed", record, f"has {len(labels)} labels; the first one, {label}, is drawn")
    return Shape(label, _geometry(kind, value, size), record)


def _geometry(kind: str, value: dict[str, Any], size: tuple[int, int]) -> Polygons | Bitmap:
    height, width = size

    def number(key: str) -> float:
        return values.number(value.get(key), f"`{key}`")

    if kind == "brush":
        if value.get("format", "rle") != "rle":
            raise BadRecordError(f"a brush in the format {shown(value.get('format'))}; known is rle")
        return Bitmap(decode_brush(values.sequence(value.get("rle"), "`rle`"), height, width))
    if kind == "polygon":
        return Polygons((values.ring(value.get("points")) * [width / 100, height / 100],))
    turn = values.number(value.get("rotation", 0) or 0, "`rotation`")
    x, y = number("x") * width / 100, number("y") * height / 100
    if kind == "ellipse":
        radii = number("radiusX") * width / 100, number("radiusY") * height / 100
        return Polygons((values.ellipse(x, y, *radii, turn),))
    right, bottom = x + number("width") * width / 100, y + number("height") * height / 100
    corners = values.rectangle(x, y, right, bottom)  # turned about its first corner
    return Polygons((values.turned(corners, (x, y), turn),))


def _labels_of(value: Any) -> list[Any]:
    keys = ("labels", *(f"{kind}labels" for kind in _KINDS))
    return next((value[key] for key in keys if isinstance(value, dict) and isinstance(value.get(key), list)), [])


def _image_of(task: Any) -> Any:
    """The image of a task, whatever its key in the labelling interface is called."""
    if not isinstance(task, dict):
        return None
    data = task.get("data", task)
    texts = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    named = data.get("image") if isinstance(data, dict) else None
    return named or next((text for text in texts if is_image_name(urlsplit(text).path)), None)


def _results(task: Any, notes: Notes) -> list[dict[str, Any]]:
    """Regions of the annotation that counts: the one marked as ground truth, or else the first not cancelled."""
    entry = values.mapping(task, "the task")
    if "data" not in entry:
        return _flat_results(entry)
    # a file of tasks with predictions, as is imported, was not exported: in exports there are annotations, maybe none
    key = next((key for key in ("annotations", "completions", "predictions") if key in entry), "annotations")
    annotations = values.sequence(entry.get(key, []), f"`{key}`")
    usable = [one for one in annotations if isinstance(one, dict) and not one.get("was_cancelled")]
    chosen = next((one for one in usable if one.get("ground_truth")), usable[0] if usable else None)
    for number, one in enumerate(annotations, start=1):
        if one is not chosen:
            notes.add("skipped", f"annotation {number} of {len(annotations)}", "another annotation of the image counts")
    if chosen is None:
        raise BadRecordError("nobody has annotated it")
    results = values.sequence(chosen.get("result", []), "`result`")
    return [values.mapping(result, "a region") for result in results]


def _flat_results(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the export called JSON-MIN, where each control has a list of regions."""
    found: list[dict[str, Any]] = []
    for key, regions in entry.items():
        for region in regions if isinstance(regions, list) else []:
            kind = next((one for one in _KINDS if isinstance(region, dict) and f"{one}labels" in region), None)
            if kind:
                found.append({**region, "type": f"{kind}labels", "id": f"{key} {len(found) + 1}", "value": region})
    return found


@contextmanager
def open_label_studio(look: Look) -> Iterator[Source]:
    """Open a JSON export; see `Reader`."""
    path = look.path
    total = sum(1 for _ in stream_elements(path))
    folder = path.parent
    yield Source(
        "Label Studio",
        lambda: _jobs(path),
        order="file",
        image_roots=(folder, folder / "images"),
        total=total,
    )


def _jobs(path: Path) -> Iterator[Job | Problem]:
    for number, (_, task) in enumerate(stream_elements(path), start=1):
        if isinstance(task, dict):
            yield TaskJob(path, json.dumps(task).encode(), number)
        else:
            yield Problem("bad", str(path), f"task number {number}", f"is {shown(task)}, not an object")
