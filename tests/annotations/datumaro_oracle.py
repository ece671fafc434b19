"""Writes `tests/annotations/datumaro`: annotations that datumaro has exported, and what it reads in them.

Run in an environment with datumaro, which the project does not depend on:

    python tests/annotations/datumaro_oracle.py tests/annotations/datumaro
"""

import json
import shutil
import sys
from pathlib import Path

import datumaro as dm
import numpy as np
from datumaro.components.annotation import Bbox, LabelCategories, Mask, MaskCategories, Polygon
from datumaro.components.media import Image as Media
from datumaro.util import mask_tools

NAMES = ["background", "road", "car"]
FORMATS = {"coco": "coco_instances", "cvat": "cvat", "voc": "voc_segmentation"}


def items() -> list[dm.DatasetItem]:
    """Shapes that lie apart: polygons on and between pixels, a mask with a hole, a box."""
    ring = np.zeros((20, 30), bool)
    ring[11:18, 2:20] = True
    ring[13:15, 6:12] = False
    first = [
        Polygon([3.2, 1.7, 12.6, 2.4, 9.9, 8.3, 4.1, 7.2], label=2, z_order=1, id=1, group=1),
        Polygon([16, 2, 26, 2, 26, 8, 21, 8, 21, 5, 16, 5], label=1, id=2, group=2),
        Mask(ring, label=1, id=3, group=3),
    ]
    second = [Polygon([1, 1, 9, 1, 9, 12, 1, 12], label=1, id=4, group=4), Bbox(11, 3, 5, 8, label=2, id=5, group=5)]
    return [
        dm.DatasetItem(id="a", subset="train", media=blank(20, 30), annotations=first),
        dm.DatasetItem(id="b", subset="train", media=blank(15, 18), annotations=second),
    ]


def blank(height: int, width: int) -> Media:
    return Media.from_numpy(data=np.zeros((height, width, 3), np.uint8), ext=".jpg")


def class_map(item: dm.DatasetItem, *, has_boxes: bool) -> np.ndarray:
    """Datumaro's masks of the shapes of an item; boxes are filled where they are shapes of their own."""
    height, width = item.media.size
    result = np.full((height, width), 255, np.uint8)
    for annotation in sorted(item.annotations, key=lambda one: getattr(one, "z_order", 0)):
        if isinstance(annotation, Mask):
            result[np.asarray(annotation.image, bool)] = annotation.label
        elif isinstance(annotation, Polygon):
            decoded = mask_tools.rles_to_mask([annotation.points], width, height)
            result[np.asarray(decoded, bool)] = annotation.label
        elif isinstance(annotation, Bbox) and has_boxes:
            x, y, w, h = (round(value) for value in annotation.get_bbox())
            result[y : y + h, x : x + w] = annotation.label
    return result


def main(out: Path) -> None:
    categories = {
        dm.AnnotationType.label: LabelCategories.from_iterable(NAMES),
        dm.AnnotationType.mask: MaskCategories({0: (0, 0, 0), 1: (128, 64, 128), 2: (0, 0, 142)}),
    }
    expected: dict[str, object] = {"datumaro": dm.__version__}
    for name, exporter in FORMATS.items():
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        dataset = dm.Dataset.from_iterable(items(), categories=categories)
        if name == "voc":
            dataset = dataset.transform("boxes_to_masks").transform("polygons_to_masks")
            dataset.export(str(folder), exporter, save_media=True, apply_colormap=True, label_map="source")
        else:
            dataset.export(str(folder), exporter, save_media=True)
        again = dm.Dataset.import_from(str(folder), "voc_segmentation" if name == "voc" else name)
        labels = [label.name for label in again.categories()[dm.AnnotationType.label]]
        maps = {}
        for item in again:
            indices = class_map(item, has_boxes=name == "cvat")
            table = np.array([NAMES.index(label) if label in NAMES else 255 for label in labels], np.uint8)
            maps[item.id] = np.where(indices < 255, table[np.minimum(indices, len(labels) - 1)], 0).tolist()
        expected[name] = maps
        print(name, labels, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*")))
    (out / "expected.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
