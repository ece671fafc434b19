"""Class maps to annotations and back: within the tolerance, and exact without one."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from protoseg_deploy.annotations.filling import covered, fill_by_centres
from protoseg_deploy.annotations.regions import find_regions
from protoseg_deploy.annotations.simplifying import join_holes, simplify
from protoseg_deploy.annotations.writing import Predicted, Task, write_annotations
from protoseg_deploy.choices import PRE_ANNOTATION_FORMATS
from protoseg_deploy.errors import UsageError
from protoseg_deploy.recipe import ClassTable
from tests.annotations.converted import read_mask, run_convert

NAMES = ("background", "road <&>", "car")
COLORS = ((0, 0, 0), (128, 64, 128), (0, 0, 142))
READERS = {"coco": "coco", "cvat": "cvat", "labelme": "labelme", "labelstudio": "label-studio"}
maps = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))


def blobs(seed: int, height: int = 60, width: int = 70) -> np.ndarray:
    """A smooth map of three classes, with islands and lakes."""
    noise = np.random.default_rng(seed).normal(size=(height, width))
    for _ in range(3):
        noise = sum(np.roll(noise, shift, axis) for shift in (-2, -1, 0, 1, 2) for axis in (0, 1))
    low, high = np.quantile(noise, [0.35, 0.65])
    return (noise > low).astype(np.uint8) + (noise > high).astype(np.uint8)


def write(tmp_path: Path, format_name: str, class_maps: list[np.ndarray], tolerance: float, min_area: int = 0) -> Path:
    images = []
    for number, class_map in enumerate(class_maps):
        name = Path("sub") / f"straße {number}.png"
        for folder in ("photos", "out/index"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*class_map.shape, 3), np.uint8)).save(tmp_path / "photos" / name)
        Image.fromarray(class_map).save(tmp_path / "out/index" / name)
        images.append(Predicted(tmp_path / "photos" / name, name, tmp_path / "out/index" / name, name))
    task = Task(ClassTable(NAMES, COLORS), tolerance, min_area)
    return write_annotations(format_name, images, tmp_path / "out", task).path


def read_back(tmp_path: Path, format_name: str, path: Path, count: int) -> list[np.ndarray]:
    arguments = ["--format", READERS[format_name], "--images", tmp_path / "photos"]
    run_convert(path, tmp_path / "back", *arguments, "--classes", ",".join(NAMES))
    return [read_mask(tmp_path / f"back/masks/sub/straße {number}.png") for number in range(count)]


def far_from_borders(class_map: np.ndarray, distance: float) -> np.ndarray:
    """Pixels whose centre lies farther than a distance from every side between two classes, and from the border."""
    height, width = class_map.shape
    sides = [((y, 0, y + 1, 0), (y, width, y + 1, width)) for y in range(height)]
    sides += [((0, x, 0, x + 1), (height, x, height, x + 1)) for x in range(width)]
    segments = [segment for pair in sides for segment in pair]
    for y, x in zip(*np.nonzero(class_map[:, 1:] != class_map[:, :-1]), strict=True):
        segments.append((y, x + 1, y + 1, x + 1))
    for y, x in zip(*np.nonzero(class_map[1:] != class_map[:-1]), strict=True):
        segments.append((y + 1, x, y + 1, x + 1))
    rows, columns = np.mgrid[:height, :width] + 0.5
    far = np.ones(class_map.shape, dtype=bool)
    for top, left, bottom, right in segments:
        nearest_y, nearest_x = np.clip(rows, top, bottom), np.clip(columns, left, right)
        far &= np.hypot(rows - nearest_y, columns - nearest_x) > distance
    return far


@settings(max_examples=150, deadline=None)
@given(maps)
def test_regions_are_the_map(class_map: np.ndarray) -> None:
    again = np.zeros_like(class_map)
    times = np.zeros_like(class_map)
    for region in find_regions(class_map, (1, 2)):
        part = covered(region.polygons, class_map.shape)
        assert part.pixels.sum() == region.area
        again[part.place][part.pixels] = region.label
        times[part.place] += part.pixels
    np.testing.assert_array_equal(again, class_map)
    assert times.max(initial=0) <= 1


@settings(max_examples=60, deadline=None)
@given(maps)
def test_regions_are_connected_by_sides(class_map: np.ndarray) -> None:
    from scipy.ndimage import label

    for index in (1, 2):
        count = label(class_map == index)[1]
        assert sum(1 for _ in find_regions(class_map, (index,))) == count


@settings(max_examples=100, deadline=None)
@given(maps)
def test_cuts_to_holes_leave_no_trace(class_map: np.ndarray) -> None:
    for region in find_regions(class_map, (1, 2)):
        whole = covered(region.polygons, class_map.shape)
        joined = fill_by_centres(join_holes(region.outer, region.holes), class_map.shape)
        expected = np.zeros(class_map.shape, bool)
        expected[whole.place] = whole.pixels
        np.testing.assert_array_equal(joined, expected)


@settings(max_examples=100, deadline=None)
@given(
    arrays.arrays(np.float64, st.tuples(st.integers(3, 30), st.just(2)), elements=st.integers(0, 12).map(float)),
    st.sampled_from([0.0, 0.4, 1.0, 2.5]),
)
def test_no_corner_is_farther_than_the_tolerance(ring: np.ndarray, tolerance: float) -> None:
    fewer = simplify(ring, tolerance)
    assert 3 <= len(fewer) <= len(ring)
    for point in ring:
        line = np.roll(fewer, -1, axis=0) - fewer
        length = np.maximum((line**2).sum(axis=1), 1e-12)
        share = np.clip(((point - fewer) * line).sum(axis=1) / length, 0, 1)[:, None]
        assert np.hypot(*(fewer + share * line - point).T).min() <= tolerance + 1e-9


@pytest.mark.parametrize("format_name", PRE_ANNOTATION_FORMATS)
def test_without_tolerance_the_maps_come_back(tmp_path: Path, format_name: str) -> None:
    class_maps = [blobs(1), blobs(2, 33, 47), np.zeros((5, 5), np.uint8), np.full((4, 6), 2, np.uint8)]
    noisy = np.random.default_rng(0).integers(0, 3, (20, 23)).astype(np.uint8)
    class_maps.append(noisy)
    path = write(tmp_path, format_name, class_maps, tolerance=0)
    for back, class_map in zip(read_back(tmp_path, format_name, path, 5), class_maps, strict=True):
        np.testing.assert_array_equal(back, class_map)


@pytest.mark.parametrize("tolerance", [0.8, 2.0])
@pytest.mark.parametrize("format_name", PRE_ANNOTATION_FORMATS)
def test_pixels_farther_than_the_tolerance_from_borders_stay(
    tmp_path: Path, format_name: str, tolerance: float
) -> None:
    class_map = blobs(3)
    path = write(tmp_path, format_name, [class_map], tolerance)
    (back,) = read_back(tmp_path, format_name, path, 1)
    # pycocotools rounds polygons to fifths of a pixel and covers pixels whose centre is near
    slack = 0.71 if format_name == "coco" else 1e-6
    far = far_from_borders(class_map, tolerance + slack)
    assert far.sum() > 50
    np.testing.assert_array_equal(back[far], class_map[far])
    assert (back != class_map).any(), "something was simplified"


def test_a_larger_tolerance_gives_fewer_corners() -> None:
    (region, *_) = sorted(find_regions(blobs(4), (1,)), key=lambda region: -region.area)
    counts = [len(simplify(region.outer, tolerance)) for tolerance in (0, 0.8, 2)]
    assert counts[0] > counts[1] > counts[2]


def test_pycocotools_reads_what_is_written(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    class_map = blobs(5)
    coco = COCO(str(write(tmp_path, "coco", [class_map], tolerance=0)))
    again = np.zeros_like(class_map)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        pixels = coco.annToMask(annotation).astype(bool)
        assert pixels.sum() == annotation["area"]
        rows, columns = np.nonzero(pixels)
        left, top, width, height = annotation["bbox"]
        assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (top, left, top + height, left + width)
        again[pixels] = annotation["category_id"]
    np.testing.assert_array_equal(again, class_map)
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == list(NAMES[1:])
    assert any(isinstance(annotation["segmentation"], dict) for annotation in coco.anns.values()), "with holes"


def test_small_regions_are_left_out_and_counted(tmp_path: Path) -> None:
    class_map = np.zeros((20, 20), np.uint8)
    class_map[2:4, 2:4] = 1
    class_map[8:18, 8:18] = 2
    images = tmp_path / "a.png"
    Image.fromarray(class_map).save(images)
    task = Task(ClassTable(NAMES, COLORS), 0, 5)
    written = write_annotations(
        "coco", [Predicted(images, Path("a.png"), images, Path("a.png"))], tmp_path / "out", task
    )
    assert (written.regions, written.left_out) == (1, 1)
    assert [one["area"] for one in json.loads(written.path.read_text())["annotations"]] == [100]


def test_cvat_declares_its_labels_and_labelme_finds_its_image(tmp_path: Path) -> None:
    path = write(tmp_path, "cvat", [blobs(6)], 1)
    labels = [(one.findtext("name"), one.findtext("color")) for one in ET.parse(path).iter("label")]
    assert labels == [("road <&>", "#804080"), ("car", "#00008e")]
    folder = write(tmp_path, "labelme", [blobs(6)], 1)
    document = json.loads((folder / "sub/straße 0.json").read_text())
    assert (folder / "sub" / document["imagePath"]).resolve() == (tmp_path / "photos/sub/straße 0.png").resolve()
    assert {shape["shape_type"] for shape in document["shapes"]} == {"polygon", "mask"}


def test_the_interface_of_label_studio_fits_its_tasks(tmp_path: Path) -> None:
    path = write(tmp_path, "labelstudio", [blobs(7)], 1)
    view = ET.parse(path.with_suffix(".xml")).getroot()
    (control,) = view.iter("PolygonLabels")
    (task,) = json.loads(path.read_text())
    for result in task["predictions"][0]["result"]:
        assert (result["from_name"], result["to_name"]) == (control.get("name"), control.get("toName"))
        assert result["value"]["polygonlabels"][0] in [label.get("value") for label in control.iter("Label")]
        assert np.array(result["value"]["points"]).min() >= 0
        assert np.array(result["value"]["points"]).max() <= 100
    assert task["data"]["image"] == "/data/local-files/?d=sub/stra%C3%9Fe%200.png"


def test_a_map_without_background_is_written_whole(tmp_path: Path) -> None:
    class_map = np.array([[0, 0, 1], [1, 1, 1]], np.uint8)
    Image.fromarray(class_map).save(tmp_path / "a.png")
    task = Task(ClassTable(("sky", "road"), COLORS[:2]), 0, 0)
    predicted = [Predicted(tmp_path / "a.png", Path("a.png"), tmp_path / "a.png", Path("a.png"))]
    path = write_annotations("coco", predicted, tmp_path / "out", task).path
    run_convert(path, tmp_path / "back", "--images", tmp_path, "--unlabeled", "ignore")
    np.testing.assert_array_equal(read_mask(tmp_path / "back/masks/a.png"), class_map)


def test_corrections_made_in_labelme_are_not_lost(tmp_path: Path) -> None:
    folder = write(tmp_path, "labelme", [blobs(6)], 1)
    write(tmp_path, "labelme", [blobs(8)], 1)  # what nobody has touched is replaced
    path = folder / "sub/straße 0.json"
    document = json.loads(path.read_text())
    document["shapes"].pop()
    path.write_text(json.dumps(document))
    corrected = path.read_bytes()
    with pytest.raises(UsageError, match="changed since"):
        write(tmp_path, "labelme", [blobs(6)], 1)
    assert path.read_bytes() == corrected


@pytest.mark.parametrize("name", ["coco.json", "cvat.xml", "labelstudio.json", "labelstudio.xml"])
def test_files_of_others_are_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / "out/annotations").mkdir(parents=True)
    (tmp_path / "out/annotations" / name).write_text("mine")
    with pytest.raises(UsageError, match="was not written by predict"):
        write(tmp_path, name.partition(".")[0], [blobs(6)], 1)
    assert (tmp_path / "out/annotations" / name).read_text() == "mine"
    (tmp_path / "out/annotations" / name).unlink()
    for _ in range(2):
        write(tmp_path, name.partition(".")[0], [blobs(6)], 1)
