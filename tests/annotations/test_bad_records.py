"""Hostile and damaged annotations: every bad record is listed with its file and reason, and the rest is converted."""

import base64
import json
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.annotations.converted import names_of, problems_of, read_mask, reasons_of, run_convert
from tests.annotations.examples import (
    CAR_RING,
    CVAT,
    HAND_WRITTEN,
    HEIGHT,
    WIDTH,
    binary_masks,
    bits,
    cityscapes,
    coco,
    coco_document,
    cvat,
    expected,
    label_studio,
    label_studio_document,
    labelme,
    labelme_document,
    png,
    supervisely,
    voc,
    write_image,
    write_json,
    yolo,
)

NAN = float("nan")


def convert_coco(tmp_path: Path, change: Callable[[dict], Any], exit_code: int = 1) -> Path:
    """Convert a changed COCO file; its road stays."""
    coco(tmp_path / "in")
    document = coco_document()
    change(document)
    source = write_json(tmp_path / "in/instances.json", document)
    run_convert(source, tmp_path / "out", exit_code=exit_code)
    return tmp_path / "out"


SEGMENTATIONS = {
    "NaN": ([[NAN, 1, 5, 1, 5, 5]], "NaN or infinite"),
    "infinite": ([[1e999, 1, 5, 1, 5, 5]], "NaN or infinite"),
    "two points": ([[1, 1, 5, 5]], "2 points; 3 are the least"),
    "odd": ([[1, 1, 5, 1, 5, 5, 2]], "an odd number"),
    "words": ([["a", "b", "c", "d", "e", "f"]], "no number"),
    "nested": ([[[1, 2], [3]]], "no number"),
    "outside": ([[100, 100, 120, 100, 120, 120]], "lies outside the image"),
    "another size": ({"size": [5, 5], "counts": [25]}, "its image has [12, 16]"),
    "no size": ({"counts": [192]}, "its size is None"),
    "huge size": ({"size": [10**9, 10**9], "counts": [10**18]}, "up to 1,073,741,824"),
    "huge counts": ({"size": [12, 16], "counts": [0, 10**18]}, "above the 192 pixels"),
    "counts beyond integers": ({"size": [12, 16], "counts": [0, 10**40]}, "run lengths"),
    "negative counts": ({"size": [12, 16], "counts": [-5, 197]}, "below 0"),
    "few counts": ({"size": [12, 16], "counts": [3, 4]}, "run lengths of 7 pixels for 16x12"),
    "counts of words": ({"size": [12, 16], "counts": ["a"]}, "no whole numbers"),
    "compressed nonsense": ({"size": [12, 16], "counts": "zzzzzzzzzzzzzzzz"}, "compressed run lengths"),
    "compressed huge": ({"size": [12, 16], "counts": "ooooooo7"}, "run lengths"),
    "compressed cut": ({"size": [12, 16], "counts": "o"}, "end within a number"),
    "compressed unicode": ({"size": [12, 16], "counts": "ä\ud800"}, "characters that they do not have"),
    "text": ("polygon", "not an object"),
    "deep": ([[[[[[[[[1, 2, 3, 4, 5, 6]]]]]]]]], None),
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
def test_a_bad_segmentation_is_listed_and_the_rest_drawn(tmp_path: Path, case: str) -> None:
    segmentation, reason = SEGMENTATIONS[case]
    if reason is None:  # numbers are numbers, however they are nested
        convert_coco(tmp_path, lambda document: document["annotations"][0].update(segmentation=segmentation), 0)
        return
    out = convert_coco(tmp_path, lambda document: document["annotations"][0].update(segmentation=segmentation))
    (problem,) = problems_of(out, "bad")
    assert problem["file"] == str(tmp_path / "in/instances.json")
    assert (problem["record"], problem["image"]) == ("annotation 1", "sub/a.jpg")
    assert reason in problem["reason"]
    mask = read_mask(out / "masks/sub/a.png")
    road = names_of(out).index("road")
    assert ((mask == road) == (expected(names_of(out)) == road)).all()
    assert set(np.unique(mask)) == {0, road}


def test_what_a_coco_file_may_lack(tmp_path: Path) -> None:
    def change(document: dict) -> None:
        image, annotation = document["images"][0], document["annotations"][0]
        document["images"] += [5, {"id": 9}, {**image, "id": 4}, {"id": 8, "file_name": "none.jpg"} | {}]
        document["annotations"] += [
            "x",
            {**annotation, "id": 10, "category_id": 99},
            {**annotation, "id": 11, "image_id": 99},
            {**annotation, "id": 12, "segmentation": []},
            {**annotation, "id": 13, "category_id": [2]},
        ]
        document["categories"].append({"id": "x", "name": None})

    out = convert_coco(tmp_path, change)
    reasons = " | ".join(reasons_of(out, "bad"))
    for part in ("not an object", "`file_name`", "the first one is kept", "none.jpg", "none of the categories"):
        assert part in reasons
    assert "that of no image" in reasons
    assert reasons_of(out, "skipped") == ["has no segmentation, only a box or keypoints"]
    np.testing.assert_array_equal(read_mask(out / "masks/sub/a.png"), expected(names_of(out)))


@pytest.mark.parametrize("sides", [(0, 16), (-3, 16), (10**6, 10**6), ("a", 16), (NAN, 16), (None, 16)])
def test_sizes_that_cannot_be(tmp_path: Path, sides: tuple) -> None:
    out = convert_coco(tmp_path, lambda document: document["images"][0].update(height=sides[0], width=sides[1]))
    assert len(problems_of(out, "bad")) == 1
    assert not list((out / "masks").rglob("*.png"))


def test_images_of_another_size(tmp_path: Path) -> None:
    out = convert_coco(tmp_path, lambda document: document["images"][0].update(height=13))
    (reason,) = reasons_of(out, "bad")
    assert f"annotated at 16x13 pixels, but {tmp_path / 'in/images/sub/a.jpg'} has 16x12" in reason


def test_images_turned_by_exif_are_told_how_to_be_read(tmp_path: Path) -> None:
    source = coco(tmp_path / "in")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "in/images/sub/a.jpg", exif=exif)
    run_convert(source, tmp_path / "out", exit_code=1)
    assert "EXIF orientation 6: try --exif ignore" in reasons_of(tmp_path / "out", "bad")[0]
    result = run_convert(source, tmp_path / "out", "--exif", "ignore")
    assert "  exif: ignore" in result.stdout


def test_unreadable_images(tmp_path: Path) -> None:
    source = coco(tmp_path / "in")
    (tmp_path / "in/images/sub/a.jpg").write_bytes(b"nothing")
    run_convert(source, tmp_path / "out", exit_code=1)
    assert "its image cannot be read" in reasons_of(tmp_path / "out", "bad")[0]


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("format_name", ["coco", "cvat", "label-studio"])
def test_a_file_that_was_cut_off_is_refused_as_a_whole(tmp_path: Path, format_name: str, share: float) -> None:
    HAND_WRITTEN[format_name][0](tmp_path / "in")
    (file,) = (path for path in (tmp_path / "in").iterdir() if path.suffix in (".json", ".xml"))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    result = run_convert(file, tmp_path / "out", "--format", format_name, exit_code=1)
    assert str(file) in result.stderr
    assert "cut off" in result.stderr or "not valid" in result.stderr
    assert not (tmp_path / "out/masks").exists()


@pytest.mark.parametrize("share", [0.2, 0.9])
@pytest.mark.parametrize("format_name", ["labelme", "supervisely", "cityscapes"])
def test_one_file_of_many_that_was_cut_off(tmp_path: Path, format_name: str, share: float) -> None:
    source = HAND_WRITTEN[format_name][0](tmp_path / "in")
    good = next(path for path in source.rglob("*.json") if path.name != "meta.json")
    bad = good.with_name(good.name.replace("a.", "b.").replace("019", "020"))
    content = good.read_bytes()
    bad.write_bytes(content[: int(len(content) * share)])
    for image in (tmp_path / "in").rglob("*.[jp][pn]g"):
        image.with_name(image.name.replace("a.", "b.").replace("019", "020")).write_bytes(image.read_bytes())
    run_convert(source, tmp_path / "out", "--format", format_name, exit_code=1)
    (problem,) = problems_of(tmp_path / "out", "bad")
    assert problem["file"] == str(bad)
    assert "cut off" in problem["reason"]
    assert len(list((tmp_path / "out/masks").rglob("*.png"))) == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 200_000, b"null", b'{"a": 1} x', b"\x00" * 50])
@pytest.mark.parametrize("format_name", ["coco", "labelme", "cvat", "label-studio"])
def test_files_that_are_something_else(tmp_path: Path, format_name: str, content: bytes) -> None:
    ending = "xml" if format_name == "cvat" else "json"
    (tmp_path / "in").mkdir()
    (tmp_path / f"in/x.{ending}").write_bytes(content)
    result = run_convert(tmp_path / "in", tmp_path / "out", "--format", format_name, exit_code=None)
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output


LABELME_SHAPES = {
    "two points": ({"points": [[1, 1], [2, 2]]}, "2 points"),
    "NaN": ({"points": [[1, 1], [2, NAN], [3, 3]]}, "NaN"),
    "no label": ({"label": None}, "`label` is None"),
    "unknown kind": ({"shape_type": "spline"}, "shape_type 'spline' is unknown"),
    "no mask": ({"shape_type": "mask", "points": [[0, 0], [1, 1]]}, "`mask` is None"),
    "no base64": ({"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "§§"}, "no base64"),
    "no picture": ({"shape_type": "mask", "points": [[0, 0], [1, 1]], "mask": "AAAA"}, "damaged"),
    "large picture": (
        {"shape_type": "mask", "points": [[0, 0], [1, 1]]}
        | {"mask": base64.b64encode(png(np.zeros((300, 300), bool))).decode()},
        "300x300 pixels, more than its image",
    ),
    "a number": (5, "not an object"),
}


@pytest.mark.parametrize("case", LABELME_SHAPES)
def test_bad_shapes_of_labelme(tmp_path: Path, case: str) -> None:
    labelme(tmp_path / "in")
    change, reason = LABELME_SHAPES[case]
    document = labelme_document()
    first = document["shapes"][0]
    document["shapes"].append({**first, **change} if isinstance(change, dict) else change)
    write_json(tmp_path / "in/sub/a.json", document)
    run_convert(tmp_path / "in", tmp_path / "out", exit_code=1)
    (problem,) = problems_of(tmp_path / "out", "bad")
    assert problem["record"] == "shapes[3]"
    assert reason in problem["reason"]
    np.testing.assert_array_equal(
        read_mask(tmp_path / "out/masks/sub/a.png"), expected(names_of(tmp_path / "out"), hole=True)
    )


def test_labels_that_are_not_among_the_classes(tmp_path: Path) -> None:
    run_convert(labelme(tmp_path / "in"), tmp_path / "out", "--classes", "road", exit_code=1)
    assert reasons_of(tmp_path / "out", "bad") == ["unknown class 'car'"]
    run_convert(tmp_path / "in", tmp_path / "out", "--classes", "road", "--ignore", "car")
    assert (read_mask(tmp_path / "out/masks/sub/a.png") == 255).sum() == 24


CVAT_SHAPES = {
    '<polygon label="car" points="1,1;2,x;3,3" z_order="0"/>': "no number",
    '<polygon label="car" points="1,1;2" z_order="0"/>': "not x,y;x,y",
    '<polygon label="car" points="1,1;nan,2;3,3" z_order="0"/>': "NaN",
    '<polygon label="plane" points="1,1;9,2;3,9" z_order="0"/>': "unknown class 'plane'",
    '<polygon points="1,1;9,2;3,9" z_order="0"/>': "`label` is None",
    '<box label="car" xtl="1" ytl="1" xbr="inf" ybr="3" z_order="0"/>': "not a finite number",
    '<mask label="car" rle="5, 999999999999999999999" left="0" top="0" width="2" height="3"/>': "no whole number",
    '<mask label="car" rle="1, 2" left="0" top="0" width="2" height="3"/>': "run lengths of 3 pixels",
    '<mask label="car" rle="1" left="0" top="0" width="99999" height="99999"/>': "99999x99999 pixels in an image",
    '<star label="car"/>': "<star> is unknown",
}


@pytest.mark.parametrize("shape", CVAT_SHAPES)
def test_bad_shapes_of_cvat(tmp_path: Path, shape: str) -> None:
    cvat(tmp_path / "in")
    text = CVAT.format(rle="0, 21, 2, 14, 2, 25").replace("</image>", f"{shape}</image>")
    (tmp_path / "in/annotations.xml").write_text(text)
    run_convert(tmp_path / "in", tmp_path / "out", exit_code=1)
    (reason,) = reasons_of(tmp_path / "out", "bad")
    assert CVAT_SHAPES[shape] in reason
    mask = read_mask(tmp_path / "out/masks/sub/a.png")
    np.testing.assert_array_equal(mask, expected(names_of(tmp_path / "out"), hole=True))


def test_entities_of_xml_are_refused(tmp_path: Path) -> None:
    cvat(tmp_path / "in")
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n<annotations'
    text = (tmp_path / "in/annotations.xml").read_text().replace("<annotations", bomb, 1)
    (tmp_path / "in/annotations.xml").write_text(text)
    result = run_convert(tmp_path / "in", tmp_path / "out", exit_code=1)
    assert "entities, which CVAT does not write" in result.stderr


def test_tracks_of_a_video_are_told_how_to_be_exported(tmp_path: Path) -> None:
    cvat(tmp_path / "in")
    text = (tmp_path / "in/annotations.xml").read_text().replace("</annotations>", "<track/></annotations>")
    (tmp_path / "in/annotations.xml").write_text(text)
    assert "CVAT for images 1.1" in run_convert(tmp_path / "in", tmp_path / "out", exit_code=1).stderr


BRUSHES = {
    "empty": ([], "no list of bytes"),
    "words": (["a"], "no list of bytes"),
    "bytes beyond 255": ([1, 2, 300], "no list of bytes"),
    "ends early": (bits((768, 32), (7, 5), (2, 4), (6, 4), (14, 4), (11, 4), (1, 1)), "ends early"),
    "huge": (bits((2**32 - 1, 32), (7, 5), (2, 4), (6, 4), (14, 4), (15, 4)), "4,294,967,295 words for 16x12"),
    "too long": (bits((768, 32), (7, 5), (2, 4), (6, 4), (14, 4), (15, 4), (1, 1), (3, 2), (60000, 16)), "more"),
    "no bytes": (bits((768, 32), (15, 5), (2, 4), (6, 4), (14, 4), (11, 4)), "words of 16 bits"),
}  # fmt: skip


@pytest.mark.parametrize("case", BRUSHES)
def test_bad_brushes_of_label_studio(tmp_path: Path, case: str) -> None:
    rle, reason = BRUSHES[case]
    source = label_studio(tmp_path / "in")
    document = label_studio_document()
    document[0]["annotations"][1]["result"][0]["value"]["rle"] = rle
    write_json(source, document)
    run_convert(source, tmp_path / "out", "--classes", "car,road", exit_code=1)
    assert reason in reasons_of(tmp_path / "out", "bad")[0]
    mask = read_mask(tmp_path / "out/masks/sub/a b.png")
    assert set(np.unique(mask)) == {0, 1}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("9 0.1 0.1 0.5 0.1 0.5 0.5", "class 9 is none of the 2 names"),
        ("x 0.1 0.1 0.5 0.1 0.5 0.5", "the class is 'x'"),
        ("0 0.1 0.1 0.5 0.5", "a box of YOLO detection, or two points"),
        ("0 0.1 0.1 nan 0.1 0.5 0.5", "not a finite number"),
        ("0 10 10 50 10 50 50", "shares from 0 to 1"),
        ("0 0.1 0.1 0.5 0.1 0.5", "an odd number"),
        ("0", "0 points"),
    ],
)
def test_bad_lines_of_yolo(tmp_path: Path, line: str, reason: str) -> None:
    yolo(tmp_path / "in")
    with (tmp_path / "in/labels/train/a.txt").open("a") as file:
        file.write(line + "\n")
    run_convert(tmp_path / "in", tmp_path / "out", exit_code=1)
    (problem,) = problems_of(tmp_path / "out", "bad")
    assert problem["record"] == "line 3"
    assert reason in problem["reason"]
    np.testing.assert_array_equal(read_mask(tmp_path / "out/masks/train/a.png"), expected(names_of(tmp_path / "out")))


def supervisely_bitmap(data: bytes) -> dict:
    return {"data": base64.b64encode(data).decode(), "origin": [0, 0]}


@pytest.mark.parametrize(
    ("bitmap", "reason"),
    [
        (supervisely_bitmap(zlib.compress(bytes(200_000_000), 9)), "too much for its image"),
        (supervisely_bitmap(zlib.compress(png(np.ones((2, 2), bool)))[:-9]), "cut off"),
        (supervisely_bitmap(b"nothing"), "damaged"),
        (supervisely_bitmap(zlib.compress(png(np.ones((900, 900), bool)))), "900x900 pixels, more than its image"),
        ({"data": "AA", "origin": [0]}, "not [x, y]"),
        ({"data": 3, "origin": [0, 0]}, "not a text"),
        (None, "not an object"),
    ],
)
def test_bad_bitmaps_of_supervisely(tmp_path: Path, bitmap: Any, reason: str) -> None:
    supervisely(tmp_path / "in")
    file = tmp_path / "in/ds/ann/a.jpg.json"
    document = json.loads(file.read_text())
    document["objects"].append({"classTitle": "car", "geometryType": "bitmap", "bitmap": bitmap})
    write_json(file, document)
    run_convert(tmp_path / "in", tmp_path / "out", exit_code=1)
    assert reason in reasons_of(tmp_path / "out", "bad")[0]
    mask = read_mask(tmp_path / "out/masks/ds/img/a.png")
    np.testing.assert_array_equal(mask, expected(names_of(tmp_path / "out"), hole=True))


def test_bad_masks(tmp_path: Path) -> None:
    voc(tmp_path / "voc")
    write_image(tmp_path / "voc/JPEGImages/b.jpg")
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (7, 8, 9), np.uint8)).save(tmp_path / "voc/SegmentationClass/b.png")
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "voc/SegmentationClass/c.png")
    write_image(tmp_path / "voc/JPEGImages/c.jpg")
    Image.fromarray(np.zeros((3, 3, 3), np.uint8)).save(tmp_path / "voc/SegmentationClass/d.png")
    run_convert(tmp_path / "voc", tmp_path / "out", exit_code=1)
    reasons = reasons_of(tmp_path / "out", "bad")
    assert len(reasons) == 3
    for part in ("colours that are no class", "annotated at 3x3 pixels", "no image d"):
        assert any(part in reason for reason in reasons)
    binary_masks(tmp_path / "binary")
    soft = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(soft).save(tmp_path / "binary/photos/my_photo_rust.png")
    Image.fromarray(soft[:3]).save(tmp_path / "binary/photos/my_photo_crack.png")
    run_convert(tmp_path / "binary/photos", tmp_path / "out2", exit_code=1)
    assert any("a binary mask has 0 and one other" in reason for reason in reasons_of(tmp_path / "out2", "bad"))
    assert any("16x3 pixels, its image has 16x12" in reason for reason in reasons_of(tmp_path / "out2", "bad"))


def test_unknown_labels_of_cityscapes_and_polygons_without_area(tmp_path: Path) -> None:
    source = cityscapes(tmp_path / "in")
    (file,) = source.rglob("*.json")
    document = json.loads(file.read_text())
    document["objects"] += [{"label": "spaceship", "polygon": CAR_RING}, {"label": "car", "polygon": [[1, 1], [2, 2]]}]
    write_json(file, document)
    run_convert(source, tmp_path / "out", exit_code=1)
    assert sorted(reasons_of(tmp_path / "out", "bad")) == [
        "the polygon has 2 points; 3 are the least",
        "unknown class 'spaceship'",
    ]


def test_shapes_over_the_border_are_cut_and_told(tmp_path: Path) -> None:
    ring = [[-100, 8, 1e9, 8, 1e9, 1e9, -100, 1e9]]
    out = convert_coco(tmp_path, lambda document: document["annotations"][1].update(segmentation=ring), exit_code=0)
    (reason,) = reasons_of(out, "changed")
    assert re.search(r"reaches 99\d+\.\d pixels over the border", reason)
    np.testing.assert_array_equal(read_mask(out / "masks/sub/a.png"), expected(names_of(out)))


def test_names_that_are_no_text(tmp_path: Path) -> None:
    labelme(tmp_path / "in")
    odd = os.fsdecode(b"\xff\xfe")
    write_image(tmp_path / f"in/sub/{odd}.jpg")
    document = labelme_document() | {"imagePath": "elsewhere.jpg"}
    write_json(tmp_path / f"in/sub/{odd}.json", document)
    run_convert(tmp_path / "in", tmp_path / "out")
    assert (tmp_path / f"out/masks/sub/{odd}.png").is_file()
    assert b"\xff\xfe.png" in (tmp_path / "out/labeled.txt").read_bytes()
    json.loads((tmp_path / "out/report.json").read_bytes().decode("utf-8", "strict"))


def test_names_that_lead_elsewhere_do_not(tmp_path: Path) -> None:
    write_image(tmp_path / "secret.jpg")
    out = convert_coco(tmp_path, lambda document: document["images"][0].update(file_name="../../secret.jpg"))
    assert "no image ../../secret.jpg" in reasons_of(out, "bad")[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out", "secret.jpg"]


def test_the_command_names_the_first_records_and_where_all_are(tmp_path: Path) -> None:
    coco(tmp_path / "in")
    document = coco_document()
    document["annotations"] += [{"id": number, "image_id": 99} for number in range(100, 130)]
    source = write_json(tmp_path / "in/instances.json", document)
    result = run_convert(source, tmp_path / "out", exit_code=1)
    assert "30 records could not be used:" in result.stderr
    assert f"{source}: annotation 119: its image_id is that of no image" in result.stderr
    assert "annotation 120" not in result.stderr
    assert "… and 10 more" in result.stderr
    assert f"{tmp_path / 'out/report.json'} lists all of them." in result.stderr
    assert len(problems_of(tmp_path / "out", "bad")) == 30
