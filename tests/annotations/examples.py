"""One picture annotated in every format, written by hand from the published descriptions of the formats.

The picture has 12 rows and 16 columns: a car in rows 2 to 5 and columns 3 to 8, a road in rows 8 to 11, and nothing
elsewhere. The road has a hole of 2 rows and 2 columns where the format can say so.
"""

import base64
import json
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16
CAR = np.zeros((HEIGHT, WIDTH), dtype=bool)
CAR[2:6, 3:9] = True
ROAD = np.zeros((HEIGHT, WIDTH), dtype=bool)
ROAD[8:, :] = True
HOLE = np.zeros((HEIGHT, WIDTH), dtype=bool)
HOLE[9:11, 5:7] = True

CAR_RING = [[3, 2], [9, 2], [9, 6], [3, 6]]
ROAD_RING = [[0, 8], [16, 8], [16, 12], [0, 12]]
NAMES = ["car", "road"]


def expected(names: list[str], *, hole: bool = False, rest: int = 0) -> np.ndarray:
    """Indices of the picture for classes in this order."""
    mask = np.full((HEIGHT, WIDTH), rest, dtype=np.uint8)
    mask[CAR] = names.index("car")
    mask[ROAD & ~HOLE if hole else ROAD] = names.index("road")
    return mask


def write_image(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(path)
    return path


def write_json(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


def flat(ring: list[list[float]]) -> list[float]:
    return [value for point in ring for value in point]


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels.astype(np.uint8) * 255).save(file, "PNG")
    return file.getvalue()


def coco_document() -> dict:
    return {
        "images": [{"id": 4, "file_name": "sub/a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 2, "name": "car"}, {"id": 7, "name": "road"}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 2, "segmentation": [flat(CAR_RING)], "iscrowd": 0},
            {"id": 2, "image_id": 4, "category_id": 7, "segmentation": [flat(ROAD_RING)], "iscrowd": 0},
        ],
    }


def coco(folder: Path) -> Path:
    write_image(folder / "images/sub/a.jpg")
    return write_json(folder / "instances.json", coco_document())


def labelme_document() -> dict:
    def shape(label: str, kind: str, points: list, **more: object) -> dict:
        return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}

    mask = base64.b64encode(png((ROAD & ~HOLE)[8:])).decode()
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [
            shape("car", "polygon", CAR_RING),
            shape("road", "mask", [[0, 8], [15, 11]], mask=mask),
            shape("road", "point", [[1, 1]]),
        ],
        "imagePath": "a.jpg",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }


def labelme(folder: Path) -> Path:
    write_image(folder / "sub/a.jpg")
    write_json(folder / "sub/a.json", labelme_document())
    return folder


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><name>t</name><labels>
    <label><name>car</name><color>#c06060</color><attributes></attributes></label>
    <label><name>road</name><color>#804080</color><attributes></attributes></label>
  </labels></task></meta>
  <image id="0" name="sub/a.jpg" width="16" height="12">
    <mask label="road" source="manual" occluded="0" rle="{rle}" left="0" top="8" width="16" height="4" z_order="0"/>
    <box label="car" occluded="0" xtl="3.00" ytl="2.00" xbr="9.00" ybr="6.00" z_order="1"></box>
    <points label="car" points="1.0,1.0" z_order="0"/>
  </image>
</annotations>
"""


def cvat(folder: Path) -> Path:
    write_image(folder / "images/sub/a.jpg")
    # rows of 16: 0 off; 16 + 5 on, 2 off, 9 + 5 on, 2 off, 9 + 16 on
    (folder / "annotations.xml").write_text(CVAT.format(rle="0, 21, 2, 14, 2, 25"))
    return folder


def bits(*numbers: tuple[int, int]) -> list[int]:
    """Bytes of a bit stream: (number, how many bits)."""
    text = "".join(f"{number:0{size}b}" for number, size in numbers)
    text += "0" * (-len(text) % 8)
    return [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def label_studio_document() -> list:
    words = HEIGHT * WIDTH * 4
    above = 8 * WIDTH * 4
    rle = bits(
        (words, 32), (7, 5), (2, 4), (6, 4), (14, 4), (11, 4),
        (1, 1), (2, 2), (above - 1, 15), (0, 8),  # a run of unpainted words
        (0, 1), (0, 2), (4 - 1, 3), (255, 8), (255, 8), (255, 8), (255, 8),  # one pixel, word by word
        (1, 1), (3, 2), (words - above - 5, 12), (255, 8),
    )  # fmt: skip
    percent = [[100 * x / WIDTH, 100 * y / HEIGHT] for x, y in CAR_RING]
    common = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "to_name": "image"}
    return [
        {
            "id": 11,
            "data": {"image": "/data/local-files/?d=sub/a%20b.jpg"},
            "annotations": [
                {"id": 1, "was_cancelled": True, "result": []},
                {
                    "id": 2,
                    "was_cancelled": False,
                    "result": [
                        {
                            **common,
                            "id": "r1",
                            "type": "brushlabels",
                            "value": {"format": "rle", "rle": rle, "brushlabels": ["road"]},
                        },
                        {
                            **common,
                            "id": "r2",
                            "type": "polygonlabels",
                            "value": {"points": percent, "closed": True, "polygonlabels": ["car"]},
                        },
                    ],
                },
            ],
        }
    ]


def label_studio(folder: Path) -> Path:
    # "?d=" is decoded as in a query: %20 is a blank
    write_image(folder / "images/sub/a b.jpg")
    return write_json(folder / "export.json", label_studio_document())


def yolo(folder: Path) -> Path:
    write_image(folder / "images/train/a.jpg")
    (folder / "labels/train").mkdir(parents=True)
    lines = []
    for index, ring in ((1, ROAD_RING), (0, CAR_RING)):
        lines.append(" ".join([str(index), *(f"{x / WIDTH} {y / HEIGHT}" for x, y in ring)]))
    (folder / "labels/train/a.txt").write_text("\n".join(lines) + "\n")
    (folder / "data.yaml").write_text("path: .\ntrain: images/train\nnames:\n  0: car\n  1: road\n")
    return folder


def supervisely(folder: Path) -> Path:
    write_image(folder / "ds/img/a.jpg")
    classes = [
        {"title": "car", "shape": "bitmap", "color": "#FF0000"},
        {"title": "road", "shape": "polygon", "color": "#00FF00"},
    ]
    write_json(folder / "meta.json", {"classes": classes, "tags": []})
    data = base64.b64encode(zlib.compress(png(CAR[2:6, 3:9]))).decode()
    # points are indices of pixels; those on the line of a hole belong to the hole
    points = {"exterior": [[0, 8], [15, 8], [15, 11], [0, 11]], "interior": [[[5, 9], [6, 9], [6, 10], [5, 10]]]}
    objects = [
        {"classTitle": "road", "geometryType": "polygon", "points": points, "tags": []},
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": {"data": data, "origin": [3, 2]}, "tags": []},
    ]
    size = {"height": HEIGHT, "width": WIDTH}
    write_json(folder / "ds/ann/a.jpg.json", {"description": "", "tags": [], "size": size, "objects": objects})
    return folder


def cityscapes(folder: Path) -> Path:
    write_image(folder / "leftImg8bit/train/ulm/ulm_000_019_leftImg8bit.png")
    objects = [
        {"label": "road", "polygon": [[0, 8], [15, 8], [15, 11], [0, 11]]},
        {"label": "cargroup", "polygon": [[3, 2], [8, 2], [8, 5], [3, 5]]},
        {"label": "sky", "polygon": [[0, 0], [15, 0], [15, 11]], "deleted": 1},
        {"label": "license plate", "polygon": [[4, 3], [6, 3], [6, 4]]},
    ]
    document = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
    write_json(folder / "gtFine/train/ulm/ulm_000_019_gtFine_polygons.json", document)
    return folder / "gtFine"


def voc(folder: Path) -> Path:
    write_image(folder / "JPEGImages/a.jpg")
    (folder / "SegmentationClass").mkdir()
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:192,96,96::\nroad:128,64,128::\n"
    )
    colors = np.array([[0, 0, 0], [192, 96, 96], [128, 64, 128]], dtype=np.uint8)
    Image.fromarray(colors[expected(["background", *NAMES])]).save(folder / "SegmentationClass/a.png")
    return folder


def color_masks(folder: Path) -> Path:
    write_image(folder / "images/a.png")
    (folder / "masks").mkdir()
    (folder / "class_dict.csv").write_text("name,r,g,b\nVoid,0,0,0\ncar,64,0,128\nroad,128,64,128\n")
    colors = np.array([[0, 0, 0], [64, 0, 128], [128, 64, 128]], dtype=np.uint8)
    Image.fromarray(colors[expected(["Void", *NAMES])]).save(folder / "masks/a_L.png")
    return folder


def binary_masks(folder: Path) -> Path:
    write_image(folder / "photos/my_photo.jpg")
    Image.fromarray(CAR.astype(np.uint8) * 255).save(folder / "photos/my_photo_car.png")
    Image.fromarray(ROAD.astype(np.uint8)).save(folder / "photos/my_photo_road.png")
    return folder / "photos"


HAND_WRITTEN: dict[str, tuple[Callable[[Path], Path], dict]] = {
    "coco": (coco, {"mask": "sub/a.png"}),
    "labelme": (labelme, {"mask": "sub/a.png", "hole": True, "skipped": 1}),
    "cvat": (cvat, {"mask": "sub/a.png", "hole": True, "skipped": 1}),
    "label-studio": (label_studio, {"mask": "sub/a b.png", "skipped": 1}),
    "yolo": (yolo, {"mask": "train/a.png"}),
    "supervisely": (supervisely, {"mask": "ds/img/a.png", "hole": True}),
    "cityscapes": (cityscapes, {"mask": "train/ulm/ulm_000_019_leftImg8bit.png", "rest": 255, "skipped": 2}),
    "voc": (voc, {"mask": "a.png"}),
    "color-masks": (color_masks, {"mask": "a.png", "rest": 255}),
    "binary-masks": (binary_masks, {"mask": "my_photo.png"}),
}
"""By format: who writes it, and what comes out."""
