"""What datumaro has exported, read as datumaro reads it; see `datumaro_oracle.py`.

Its LabelMe is the older XML format of that name, and its YOLO has boxes alone: there is nothing to compare with.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.annotations.converted import names_of, problems_of, read_mask, run_convert

FOLDER = Path(__file__).with_name("datumaro")
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def convert(tmp_path: Path, name: str, *arguments: str) -> dict[str, np.ndarray]:
    run_convert(FOLDER / name, tmp_path / "out", *arguments)
    assert names_of(tmp_path / "out") == ["background", "road", "car"]
    return {image: read_mask(tmp_path / f"out/masks/{image}.png") for image in ("a", "b")}


def test_coco_is_read_alike(tmp_path: Path) -> None:
    """Datumaro marks masks as crowds, and its box has no segmentation."""
    masks = convert(tmp_path, "coco", "--crowd", "class")
    for image, mask in masks.items():
        np.testing.assert_array_equal(mask, EXPECTED["coco"][image])
    assert len(problems_of(tmp_path / "out", "skipped")) == 1
    assert len(problems_of(tmp_path / "out", "changed")) == 0


def test_crowds_of_coco_are_ignored_unless_they_are_wanted(tmp_path: Path) -> None:
    mask, expected = convert(tmp_path, "coco")["a"], np.array(EXPECTED["coco"]["a"])
    (problem,) = problems_of(tmp_path / "out", "changed")
    assert "--crowd class" in problem["reason"]
    crowd = mask == 255
    assert crowd.sum() == 7 * 18 - 2 * 6
    assert (expected[crowd] == 1).all()
    np.testing.assert_array_equal(mask[~crowd], expected[~crowd])


def test_masks_of_pascal_voc_are_read_alike(tmp_path: Path) -> None:
    for image, mask in convert(tmp_path, "voc").items():
        np.testing.assert_array_equal(mask, EXPECTED["voc"][image])


def test_cvat_is_read_alike_but_for_centres_near_a_line(tmp_path: Path) -> None:
    """Datumaro draws polygons with pycocotools, which rounds their corners to fifths of pixels."""
    masks = convert(tmp_path, "cvat")
    np.testing.assert_array_equal(masks["b"], EXPECTED["cvat"]["b"])
    different = masks["a"] != np.array(EXPECTED["cvat"]["a"])
    assert different.sum() <= 6
    assert not different[9:].any(), "the mask, and all that lies below the car"
    assert not different[:, 14:].any(), "the polygon with whole coordinates"


@pytest.mark.parametrize("name", ["coco", "cvat", "voc"])
def test_the_oracle_shows_every_class(name: str) -> None:
    shown = set(np.unique(EXPECTED[name]["a"])) | set(np.unique(EXPECTED[name]["b"]))
    assert shown == {0, 1, 2}
