"""The files of labelling tools that pre-annotations are written to."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from protoseg_deploy.annotations.filling import Covered, covered
from protoseg_deploy.annotations.regions import Region
from protoseg_deploy.annotations.run_lengths import encode_runs
from protoseg_deploy.annotations.shapes import BoolArray, Ring
from protoseg_deploy.annotations.simplifying import join_holes, simplify
from protoseg_deploy.annotations.writing import Picture, Task, relative_link
from protoseg_deploy.documents import dump_document
from protoseg_deploy.errors import UsageError
from protoseg_deploy.files import require_inside, write_atomically
from protoseg_deploy.text import readable

_MADE_BY = "protoseg predict"
"""Stands at the beginning of each file."""
_HEAD = 1 << 12


def write_coco(pictures: Iterator[Picture], folder: Path, task: Task) -> Path:
    """One ``coco.json``; categories have the class indices as ids, plus one where class 0 is written."""
    offset = 1 if 0 in task.labels else 0  # 0 is no id of a category for many readers
    images: list[dict[str, Any]] = []

    def write(file: BinaryIO) -> None:
        number = 0
        file.write(b'{"info": ' + dump_document({"description": _MADE_BY}, indent=None) + b',\n"annotations": [')
        for picture in pictures:
            images.append(_coco_image(picture, len(images) + 1))
            for region in picture.regions:
                number += 1
                entry = {"id": number, "image_id": len(images), "category_id": region.label + offset}
                annotation = entry | _coco_region(region, picture, task)
                file.write((b",\n" if number > 1 else b"\n") + dump_document(annotation, indent=None))
        categories = [{"id": index + offset, "name": task.classes.names[index]} for index in task.labels]
        file.write(b'\n],\n"categories": ' + dump_document(categories, indent=None))
        file.write(b',\n"images": [\n' + b",\n".join(dump_document(image, indent=None) for image in images) + b"\n]}\n")

    _write(folder / "coco.json", write)
    return folder / "coco.json"


def _coco_image(picture: Picture, number: int) -> dict[str, Any]:
    height, width = picture.size
    return {"id": number, "file_name": picture.name, "height": height, "width": width}


def _coco_region(region: Region, picture: Picture, task: Task) -> dict[str, Any]:
    (left, top), (right, bottom) = region.outer.min(axis=0).tolist(), region.outer.max(axis=0).tolist()
    facts = {"bbox": [left, top, right - left, bottom - top], "area": region.area, "iscrowd": 0}
    if not region.holes:
        return {"segmentation": [_plain(simplify(region.outer, task.tolerance).ravel())], **facts}
    whole = np.zeros(picture.size, dtype=np.bool_)
    part = covered(region.polygons, picture.size)
    whole[part.place] = part.pixels
    return {"segmentation": {"size": list(picture.size), "counts": _coco_counts(whole)}, **facts}


def _coco_counts(pixels: BoolArray) -> str:
    from pycocotools import mask

    height, width = pixels.shape
    runs = {"size": [height, width], "counts": encode_runs(pixels, by_column=True)}
    counts: bytes = mask.frPyObjects(runs, height, width)["counts"]
    return counts.decode()


def write_cvat(pictures: Iterator[Picture], folder: Path, task: Task) -> Path:
    """One ``cvat.xml`` of the format `CVAT for images 1.1`."""
    labels = "".join(
        f"<label><name>{escape(task.classes.names[index])}</name><color>{_hex(task.classes.colors[index])}</color>"
        "<attributes></attributes></label>\n"
        for index in task.labels
    )
    head = f"<annotations>\n<version>1.1</version>\n<meta><task><labels>\n{labels}</labels></task></meta>\n"

    def write(file: BinaryIO) -> None:
        file.write(f'<?xml version="1.0" encoding="utf-8"?>\n<!-- {_MADE_BY} -->\n{head}'.encode())
        for number, picture in enumerate(pictures):
            height, width = picture.size
            name = quoteattr(readable(picture.name))
            file.write(f'<image id="{number}" name={name} width="{width}" height="{height}">\n'.encode())
            for region in picture.regions:
                label = quoteattr(task.classes.names[region.label])
                file.write(f"{_cvat_region(region, picture, task, label)}\n".encode())
            file.write(b"</image>\n")
        file.write(b"</annotations>\n")

    _write(folder / "cvat.xml", write)
    return folder / "cvat.xml"


def _cvat_region(region: Region, picture: Picture, task: Task, label: str) -> str:
    common = f'label={label} source="auto" occluded="0" z_order="0"'
    if not region.holes:
        ring = simplify(region.outer, task.tolerance)
        points = ";".join(f"{x:.2f},{y:.2f}" for x, y in ring.tolist())
        return f'<polygon {common} points="{points}"></polygon>'
    part = _tight(covered(region.polygons, picture.size))
    height, width = part.pixels.shape
    rle = ", ".join(map(str, encode_runs(part.pixels, by_column=False)))
    box = f'left="{part.left}" top="{part.top}" width="{width}" height="{height}"'
    return f'<mask {common} rle="{rle}" {box}></mask>'


def write_labelme(pictures: Iterator[Picture], folder: Path, task: Task) -> Path:
    """``labelme/NAME.json`` for every image, which names it by its path from there."""
    for picture in pictures:
        path = folder / "labelme" / picture.unique.with_suffix(".json")
        require_inside(folder, path)
        _require_unchanged(path)
        height, width = picture.size
        shapes = [_labelme_region(region, picture, task) for region in picture.regions]
        document: dict[str, Any] = {
            "version": "5.0.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": relative_link(picture.image, path.parent),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
            "made_by": _MADE_BY,
            "shapes_sha256": _digest(shapes),
        }
        write_atomically(path, dump_document(document) + b"\n", sync=False)
    return folder / "labelme"


def _require_unchanged(path: Path) -> None:
    """LabelMe saves corrections into the file that it was given: those must not be lost."""
    if not path.exists():
        return
    try:
        document = json.loads(path.read_bytes())
        is_ours = document["shapes_sha256"] == _digest(document["shapes"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise UsageError(
            f"{path} was not written by predict, or was changed since: it would be replaced",
            "Move it to where it is safe, or choose another --out.",
        )


def _digest(shapes: object) -> str:
    return hashlib.sha256(json.dumps(shapes, sort_keys=True).encode()).hexdigest()


def _labelme_region(region: Region, picture: Picture, task: Task) -> dict[str, Any]:
    common: dict[str, Any] = {
        "label": task.classes.names[region.label],
        "group_id": None,
        "description": "",
        "flags": {},
    }
    if not region.holes:
        points = simplify(region.outer, task.tolerance).tolist()
        return {**common, "points": points, "shape_type": "polygon", "mask": None}
    part = _tight(covered(region.polygons, picture.size))
    height, width = part.pixels.shape
    file = BytesIO()
    Image.fromarray(part.pixels).save(file, "PNG")
    box = [[part.left, part.top], [part.left + width - 1, part.top + height - 1]]
    return {**common, "points": box, "shape_type": "mask", "mask": base64.b64encode(file.getvalue()).decode()}


def write_label_studio(pictures: Iterator[Picture], folder: Path, task: Task) -> Path:
    """``labelstudio.json`` with a task and a prediction for every image, and ``labelstudio.xml``, the interface."""
    names, colors = task.classes.names, task.classes.colors
    labels = "\n".join(
        f'    <Label value={quoteattr(names[index])} background="{_hex(colors[index])}"/>' for index in task.labels
    )
    interface = (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <PolygonLabels name="label" toName="image">\n{labels}\n  </PolygonLabels>\n</View>\n'
    )
    interface = f"<!-- {_MADE_BY} -->\n{interface}"
    _write(folder / "labelstudio.xml", lambda file: file.write(interface.encode()))

    def write(file: BinaryIO) -> None:
        for number, picture in enumerate(pictures):
            results = [
                _label_studio_region(region, picture, task, f"r{place}")
                for place, region in enumerate(picture.regions, start=1)
            ]
            image = f"/data/local-files/?d={quote(readable(picture.name))}"
            prediction = {"model_version": _MADE_BY, "result": results}
            document = {"data": {"image": image}, "predictions": [prediction]}
            file.write((b",\n" if number else b"[\n") + dump_document(document, indent=None))
        file.write(b"\n]\n" if file.tell() else b"[]\n")

    _write(folder / "labelstudio.json", write)
    return folder / "labelstudio.json"


def _label_studio_region(region: Region, picture: Picture, task: Task, identity: str) -> dict[str, Any]:
    outer = simplify(region.outer, task.tolerance)
    ring = join_holes(outer, [simplify(hole, task.tolerance) for hole in region.holes])
    height, width = picture.size
    return {
        "id": identity,
        "type": "polygonlabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {
            "points": (ring * 100 / [width, height]).tolist(),
            "closed": True,
            "polygonlabels": [task.classes.names[region.label]],
        },
    }


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file, unless there is one of someone else's.

    Raises:
        UsageError: there is.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        head = b""
    if head and _MADE_BY.encode() not in head:
        raise UsageError(f"{path} was not written by predict: it would be replaced", "Choose another --out.")
    write_atomically(path, write)


def _tight(part: Covered) -> Covered:
    """Without the empty rows and columns around."""
    rows, columns = np.flatnonzero(part.pixels.any(axis=1)), np.flatnonzero(part.pixels.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    return Covered(part.pixels[top : rows[-1] + 1, left : columns[-1] + 1], part.top + top, part.left + left)


def _plain(values: Ring) -> list[float]:
    """Whole numbers without their decimals."""
    return [int(value) if value == int(value) else value for value in values.tolist()]


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


WRITERS: dict[str, Callable[[Iterator[Picture], Path, Task], Path]] = {
    "coco": write_coco,
    "cvat": write_cvat,
    "labelme": write_labelme,
    "labelstudio": write_label_studio,
}
"""By the name of the format."""
