"""Which pixels a shape covers, and which shape lies on top."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw

from protoseg_deploy.annotations.filling import clipped, covered, distance_outside, fill_by_centres
from protoseg_deploy.annotations.shapes import BadRecordError, Bitmap, Polygons
from tests.annotations.converted import names_of, read_mask, run_convert
from tests.annotations.examples import (
    HEIGHT,
    WIDTH,
    coco,
    coco_document,
    flat,
    labelme_document,
    write_image,
    write_json,
)

SIZE = (9, 11)
rings = arrays.arrays(np.float64, st.tuples(st.integers(3, 8), st.just(2)), elements=st.floats(-6, 18, width=32)).map(
    lambda ring: ring * 1.0137 + [0.0171, 0.0293]
)
"""Simple numbers, moved so that no line passes through the centres of pixels."""


def winds_around(ring: np.ndarray, x: float, y: float) -> bool:
    """A slow reference: how many sides a ray to the left crosses."""
    inside = False
    for (x0, y0), (x1, y1) in zip(ring.tolist(), np.roll(ring, -1, axis=0).tolist(), strict=True):
        if (y0 > y) != (y1 > y) and x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x:
            inside = not inside
    return inside


@settings(max_examples=150, deadline=None)
@given(rings)
def test_pixels_whose_centre_lies_inside(ring: np.ndarray) -> None:
    filled = fill_by_centres(ring, SIZE)
    for y in range(SIZE[0]):
        for x in range(SIZE[1]):
            assert filled[y, x] == winds_around(ring, x + 0.5, y + 0.5), (x, y)


@settings(max_examples=100, deadline=None)
@given(rings)
def test_what_lies_outside_changes_nothing(ring: np.ndarray) -> None:
    canvas = np.zeros(SIZE, bool)
    part = covered(Polygons((ring,)), SIZE)
    canvas[part.place] = part.pixels
    np.testing.assert_array_equal(canvas, fill_by_centres(ring, SIZE))
    inner = clipped(ring, (0, 0), (SIZE[1], SIZE[0]))
    if len(inner):
        assert inner.min() >= 0
        assert (inner <= [SIZE[1], SIZE[0]]).all()
        np.testing.assert_array_equal(fill_by_centres(inner, SIZE), canvas)


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float64, st.tuples(st.integers(3, 8), st.just(2)), elements=st.integers(0, 11).map(float)))
def test_the_rules_of_libraries_are_those_of_the_libraries(ring: np.ndarray) -> None:
    from pycocotools import mask

    (code,) = mask.frPyObjects([ring.ravel().tolist()], *SIZE)
    canvas = Image.new("L", SIZE[::-1])
    ImageDraw.Draw(canvas).polygon([tuple(point) for point in ring.tolist()], fill=1)
    if (ring < 0).any() or (ring > [SIZE[1], SIZE[0]]).any():
        return  # cut at the border first
    for rule, reference in (("pixels", np.array(canvas) > 0), ("coco", mask.decode([code])[..., 0] > 0)):
        found = np.zeros(SIZE, bool)
        part = covered(Polygons((ring,), rule=rule), SIZE)
        found[part.place] = part.pixels
        np.testing.assert_array_equal(found, reference)


def test_outlines_that_would_fill_the_memory_are_refused() -> None:
    zigzag = np.array([[0, 0], [3, 2**20]] * 40, dtype=np.float64)
    for rule in ("centres", "coco", "pixels"):
        with pytest.raises(BadRecordError, match="too long to draw"):
            covered(Polygons((zigzag,), rule=rule), (2**20, 4))


def test_far_coordinates_take_no_time() -> None:
    ring = np.array([[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]])
    for rule in ("centres", "coco", "pixels"):
        assert covered(Polygons((ring,), rule=rule), SIZE).pixels.all()
    assert distance_outside(Polygons((ring,)), SIZE) > 1e299


def test_bitmaps_over_the_border_are_cut() -> None:
    part = covered(Bitmap(np.eye(4, dtype=bool), left=-2, top=7), SIZE)
    assert (part.top, part.left) == (7, 0)
    np.testing.assert_array_equal(part.pixels, np.eye(4, dtype=bool)[:2, 2:])
    assert np.isinf(distance_outside(Bitmap(np.ones((2, 2), bool), left=50), SIZE))


SMALL, LARGE = [[2, 2], [6, 2], [6, 6], [2, 6]], [[0, 0], [16, 0], [16, 12], [0, 12]]


def overlapping_coco(folder: Path, *, crowd: bool = False) -> Path:
    """A small car, and a large road, which the file names first or last: the order of the file does not matter."""
    coco(folder)
    document = coco_document()
    document["annotations"][0]["segmentation"] = [flat(SMALL)]
    document["annotations"][1]["segmentation"] = [flat(LARGE)]
    document["annotations"][0]["iscrowd"] = int(crowd)
    return write_json(folder / "instances.json", document)


def small_and_large(path: Path, names: list[str]) -> tuple[str, str]:
    mask = read_mask(path)
    return tuple("ignore" if value == 255 else names[value] for value in (mask[3, 3], mask[10, 10]))


@pytest.mark.parametrize(
    ("arguments", "on_top"),
    [
        ([], "car"),
        (["--priority", "road"], "road"),
        (["--priority", "road,car"], "car"),
        (["--priority", "car"], "car"),
    ],
)
def test_smaller_regions_lie_on_top_unless_the_priority_says_otherwise(
    tmp_path: Path, arguments: list[str], on_top: str
) -> None:
    result = run_convert(overlapping_coco(tmp_path / "in"), tmp_path / "out", *arguments)
    assert small_and_large(tmp_path / "out/masks/sub/a.png", names_of(tmp_path / "out")) == (on_top, "road")
    assert "In 1 mask classes overlap: smaller shapes" in result.stdout


@pytest.mark.parametrize(("arguments", "shown"), [([], "road"), (["--priority", "ignore"], "ignore")])
def test_crowds_lie_below_unless_the_priority_says_otherwise(tmp_path: Path, arguments: list[str], shown: str) -> None:
    run_convert(overlapping_coco(tmp_path / "in", crowd=True), tmp_path / "out", *arguments)
    assert small_and_large(tmp_path / "out/masks/sub/a.png", names_of(tmp_path / "out")) == (shown, "road")


@pytest.mark.parametrize(("order", "on_top"), [((SMALL, LARGE), "road"), ((LARGE, SMALL), "car")])
def test_later_shapes_of_labelme_lie_on_top(tmp_path: Path, order: tuple, on_top: str) -> None:
    write_image(tmp_path / "in/a.jpg")
    document = labelme_document()
    shape = document["shapes"][0]
    document["shapes"] = [
        {**shape, "points": points, "label": "car" if points is SMALL else "road"} for points in order
    ]
    write_json(tmp_path / "in/a.json", document)
    run_convert(tmp_path / "in", tmp_path / "out")
    assert small_and_large(tmp_path / "out/masks/a.png", names_of(tmp_path / "out")) == (on_top, "road")


def test_the_z_order_of_cvat_comes_before_the_order_of_the_file(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.jpg")
    shapes = '<box label="car" xtl="2" ytl="2" xbr="6" ybr="6" z_order="5"/>'
    shapes += '<box label="road" xtl="0" ytl="0" xbr="16" ybr="12" z_order="-1"/>'
    text = f'<annotations><image id="0" name="a.jpg" width="{WIDTH}" height="{HEIGHT}">{shapes}</image></annotations>'
    (tmp_path / "in/x.xml").parent.mkdir(exist_ok=True)
    (tmp_path / "in/x.xml").write_text(text)
    run_convert(tmp_path / "in", tmp_path / "out")
    assert small_and_large(tmp_path / "out/masks/a.png", names_of(tmp_path / "out")) == ("car", "road")


def test_shapes_that_lie_apart_are_no_overlap(tmp_path: Path) -> None:
    assert "overlap" not in run_convert(coco(tmp_path / "in"), tmp_path / "out").stdout
    assert json.loads((tmp_path / "out/report.json").read_text())["masks_with_overlaps"] == 0


def test_a_priority_of_an_unknown_class_is_told_with_the_right_one(tmp_path: Path) -> None:
    result = run_convert(coco(tmp_path / "in"), tmp_path / "out", "--priority", "raod", exit_code=2)
    assert "Did you mean 'road'?" in result.stderr


def test_turned_boxes_ellipses_and_circles(tmp_path: Path) -> None:
    size = (60, 60)
    write_image(tmp_path / "in/a.jpg", size)
    shapes = [
        '<box label="box" xtl="10" ytl="20" xbr="30" ybr="24" rotation="90" z_order="0"/>',
        '<ellipse label="ellipse" cx="42" cy="40" rx="12" ry="6" rotation="0" z_order="0"/>',
    ]
    text = f'<annotations><image id="0" name="a.jpg" width="60" height="60">{"".join(shapes)}</image></annotations>'
    (tmp_path / "in/x.xml").write_text(text)
    run_convert(tmp_path / "in", tmp_path / "out")
    mask, names = read_mask(tmp_path / "out/masks/a.png"), names_of(tmp_path / "out")
    box = np.zeros(size, bool)
    box[12:32, 18:22] = True
    np.testing.assert_array_equal(mask == names.index("box"), box)
    rows, columns = np.mgrid[:60, :60] + 0.5
    level = ((columns - 42) / 12) ** 2 + ((rows - 40) / 6) ** 2
    ellipse = mask == names.index("ellipse")
    assert ellipse[level < 0.95].all()
    assert not ellipse[level > 1].any()
