"""A conversion as a whole: going on, processes, what is never replaced, classes, and large files."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from protoseg_deploy.annotations import converting
from protoseg_deploy.annotations.brush import decode_brush
from protoseg_deploy.annotations.class_files import read_classes
from protoseg_deploy.annotations.json_stream import stream_elements
from protoseg_deploy.annotations.run_lengths import decode_runs, encode_runs, parse_coco_counts
from protoseg_deploy.annotations.source import Job
from protoseg_deploy.errors import DataError
from tests.annotations.converted import names_of, problems_of, read_mask, run_convert
from tests.annotations.examples import (
    CAR_RING,
    HEIGHT,
    ROAD_RING,
    WIDTH,
    bits,
    coco,
    coco_document,
    flat,
    label_studio,
    label_studio_document,
    labelme,
    labelme_document,
    voc,
    write_image,
    write_json,
    yolo,
)

pixels = arrays.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


def many(folder: Path, count: int = 6) -> Path:
    document = coco_document()
    document["images"], document["annotations"] = [], []
    for number in range(count):
        write_image(folder / f"images/{number}.jpg")
        document["images"].append({"id": number, "file_name": f"{number}.jpg", "height": HEIGHT, "width": WIDTH})
        ring = flat(ROAD_RING if number % 2 else CAR_RING)
        document["annotations"].append({"id": number, "image_id": number, "category_id": 2, "segmentation": [ring]})
    document["annotations"].append({"id": 99, "image_id": 1, "category_id": 2, "segmentation": [[1, 2]]})
    return write_json(folder / "instances.json", document)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_processes_make_no_difference(tmp_path: Path) -> None:
    source = many(tmp_path / "in")
    run_convert(source, tmp_path / "one", "--workers", 0, exit_code=1)
    run_convert(source, tmp_path / "two", "--workers", 2, exit_code=1)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert len(one) == 6 + 3


def test_what_was_made_is_kept_and_what_was_noticed_is_listed_again(tmp_path: Path) -> None:
    source, out = many(tmp_path / "in"), tmp_path / "out"
    run_convert(source, out, exit_code=1)
    report = (out / "report.json").read_bytes()
    (out / "masks/3.png").unlink()
    times = {path: path.stat().st_mtime_ns for path in (out / "masks").iterdir()}
    result = run_convert(source, out, "--skip-existing", exit_code=1)
    assert "5 skipped, already made" in result.stdout
    assert (out / "report.json").read_bytes() == report
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert (out / "masks/3.png").is_file()


@pytest.mark.parametrize("change", ["annotation", "priority", "image", "classes"])
def test_what_was_made_of_something_else_is_made_again(tmp_path: Path, change: str) -> None:
    source, out = many(tmp_path / "in"), tmp_path / "out"
    run_convert(source, out, exit_code=1)
    arguments: list[str] = ["--skip-existing", "--json"]
    skipped = 0
    if change == "annotation":
        old = '"id": 0, "image_id": 0, "category_id": '
        source.write_text(source.read_text().replace(f"{old}2", f"{old}7"))
        skipped = 5
    elif change == "priority":
        arguments += ["--priority", "car"]
    elif change == "image":
        write_image(tmp_path / "in/images/0.jpg")
        os.utime(tmp_path / "in/images/0.jpg", (1, 1))
        skipped = 5
    else:
        arguments += ["--classes", "road,car"]
    document = json.loads(run_convert(source, out, *arguments, exit_code=1).stdout)
    assert (document["masks"], document["skipped_existing"]) == (6, skipped)
    assert document["records"] == {"bad": 1, "skipped": 0, "changed": 0}


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = many(tmp_path / "in"), tmp_path / "out"
    real = converting.make_mask

    def interrupted(job: Job, *rest: object) -> object:
        if job.name == "3.jpg":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return real(job, *rest)

    monkeypatch.setattr(converting, "make_mask", interrupted)
    result = run_convert(source, out, "--workers", 0, exit_code=130)
    assert "--skip-existing resumes" in result.stderr
    assert sorted(path.name for path in out.rglob("*.*")) == ["0.png", "1.png", "2.png", "classes.json"]
    monkeypatch.undo()
    assert "3 skipped" in run_convert(source, out, "--skip-existing", exit_code=1).stdout


def test_a_missing_folder_of_images_is_a_wrong_command_line(tmp_path: Path) -> None:
    result = run_convert(many(tmp_path / "in"), tmp_path / "out", "--images", tmp_path / "none", exit_code=2)
    assert f"--images: no such folder: {tmp_path / 'none'}" in result.stderr


def test_many_names_are_no_path(tmp_path: Path) -> None:
    names = ",".join(["car", "road", *(f"class number {number}" for number in range(250))])
    run_convert(many(tmp_path / "in"), tmp_path / "out", "--classes", names, exit_code=1)
    assert len(names_of(tmp_path / "out")) == 253


def test_masks_of_others_are_not_replaced(tmp_path: Path) -> None:
    source, out = many(tmp_path / "in"), tmp_path / "out"
    (out / "masks").mkdir(parents=True)
    Image.new("L", (3, 3)).save(out / "masks/2.png")
    before = (out / "masks/2.png").read_bytes()
    result = run_convert(source, out, exit_code=2)
    assert f"{out / 'masks/2.png'} was not written by convert" in result.stderr
    assert (out / "masks/2.png").read_bytes() == before


def test_lists_of_classes_of_others_are_not_replaced(tmp_path: Path) -> None:
    source = many(tmp_path / "in")
    write_json(tmp_path / "out/classes.json", {"names": ["mine"]})
    result = run_convert(source, tmp_path / "out", exit_code=2)
    assert "classes.json was not written by convert" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["classes.json"]


def test_nothing_is_written_through_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/masks").symlink_to(tmp_path / "elsewhere")
    run_convert(many(tmp_path / "in"), tmp_path / "out", exit_code=2)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_nothing_unfinished_is_left(tmp_path: Path) -> None:
    run_convert(many(tmp_path / "in"), tmp_path / "out", exit_code=1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "classes.json",
        "labeled.txt",
        "masks",
        "report.json",
    ]


def test_images_of_one_stem_get_masks_of_their_own(tmp_path: Path) -> None:
    document = coco_document()
    document["images"] = []
    for number, name in enumerate(["a.jpg", "a.png", "A.bmp"]):
        write_image(tmp_path / "in/images" / name)
        document["images"].append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
    document["annotations"] = []
    source = write_json(tmp_path / "in/instances.json", document)
    run_convert(source, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["A.bmp.png", "a.png", "a.png.png"]


def test_an_image_that_is_annotated_twice(tmp_path: Path) -> None:
    labelme(tmp_path / "in")
    write_json(tmp_path / "in/sub/other.json", labelme_document())
    run_convert(tmp_path / "in", tmp_path / "out", exit_code=1)
    (problem,) = problems_of(tmp_path / "out", "bad")
    assert problem["file"].endswith("other.json")
    assert "annotated more than once" in problem["reason"]


@pytest.mark.parametrize(
    ("arguments", "names", "rest"),
    [
        ([], ["background", "car", "road"], 0),
        (["--unlabeled", "ignore"], ["car", "road"], 255),
        (["--unlabeled", "road"], ["car", "road"], 1),
        (["--unlabeled", "grass"], ["grass", "car", "road"], 0),
        (["--classes", "road,background,car"], ["road", "background", "car"], 1),
        (["--ignore", "car"], ["background", "road"], 0),
        (["--classes", "__ignore__,_background_,road,car"], ["_background_", "road", "car"], 0),
        (["--classes", "background,car,road", "--ignore", "car"], ["background", "road"], 0),
    ],
)
def test_classes(tmp_path: Path, arguments: list[str], names: list[str], rest: int) -> None:
    run_convert(labelme(tmp_path / "in"), tmp_path / "out", *arguments)
    assert names_of(tmp_path / "out") == names
    mask = read_mask(tmp_path / "out/masks/sub/a.png")
    assert mask[0, 0] == rest
    assert mask[3, 4] == (names.index("car") if "car" in names else 255)


def test_labels_that_mean_ignored(tmp_path: Path) -> None:
    document = labelme_document()
    document["shapes"][0]["label"] = "Void"
    labelme(tmp_path / "in")
    write_json(tmp_path / "in/sub/a.json", document)
    run_convert(tmp_path / "in", tmp_path / "out")
    assert names_of(tmp_path / "out") == ["background", "road"]
    assert (read_mask(tmp_path / "out/masks/sub/a.png") == 255).sum() == 24


def test_more_classes_than_a_mask_holds(tmp_path: Path) -> None:
    document = coco_document()
    document["categories"] = [{"id": number, "name": f"c{number}"} for number in range(300)]
    coco(tmp_path / "in")
    source = write_json(tmp_path / "in/instances.json", document)
    assert "at most 255" in run_convert(source, tmp_path / "out", exit_code=2).stderr
    run_convert(source, tmp_path / "out", "--classes", "c2,c7")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", '{"names": ["car", "road"], "colors": [[1, 2, 3], [128, 64, 128]]}'),
        ("c.json", '{"car": [1, 2, 3], "road": "#804080"}'),
        ("c.json", '[{"name": "car", "color": "#010203"}, {"name": "road", "color": "#804080"}]'),
        ("c.csv", "name,r,g,b\ncar,1,2,3\nroad,128,64,128\n"),
        ("c.csv", "car,#010203\nroad,#804080\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncar:1,2,3::\nroad:128,64,128::\n"),
        ("label_colors.txt", "1 2 3\t\tcar\n128 64 128\t\troad\n"),
        ("c.txt", "car 1 2 3\nroad 128 64 128\n"),
        ("c.yaml", "names: [car, road]\ncolors: [[1, 2, 3], [128, 64, 128]]\n"),
    ],
)
def test_lists_of_classes(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [(one.name, one.color) for one in read_classes(tmp_path / name)] == [
        ("car", (1, 2, 3)),
        ("road", (128, 64, 128)),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.json", "{"), ("c.json", "{}"), ("c.json", "5"), ("c.json", '{"car": [1, 2]}'),
        ("c.json", '{"names": [5.5]}'),
        ("c.yaml", "a: [b"), ("c.csv", "car,1,2,999\n"), ("c.csv", "car,1,2\n"), ("c.txt", ""), ("c.txt", "\0"),
        ("c.json", "[" * 100_000), ("c.json", '{"names": {"x": "car"}}'),
    ],
)  # fmt: skip
def test_lists_of_classes_that_are_none(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=name):
        read_classes(tmp_path / name)


def test_classes_of_yolo_and_colours_of_masks_may_be_given(tmp_path: Path) -> None:
    yolo(tmp_path / "yolo")
    (tmp_path / "yolo/data.yaml").unlink()
    result = run_convert(tmp_path / "yolo", tmp_path / "out", "--format", "yolo", exit_code=2)
    assert "Name them with --classes" in result.stderr
    run_convert(tmp_path / "yolo", tmp_path / "out", "--format", "yolo", "--classes", "car,road")
    voc(tmp_path / "voc")
    (tmp_path / "voc/labelmap.txt").rename(tmp_path / "table.txt")
    folder = tmp_path / "voc/SegmentationClass"
    arguments = ["--format", "color-masks", "--classes", tmp_path / "table.txt"]
    arguments += ["--images", tmp_path / "voc/JPEGImages"]
    run_convert(folder, tmp_path / "out2", *arguments)
    assert read_mask(tmp_path / "out2/masks/a.png")[3, 4] == 1


def test_masks_of_pascal_voc_itself_hold_indices(tmp_path: Path) -> None:
    write_image(tmp_path / "in/JPEGImages/a.jpg")
    indices = np.zeros((HEIGHT, WIDTH), np.uint8)
    indices[2:5, 2:5], indices[5:7] = 15, 255
    mask = Image.fromarray(indices)
    mask.putpalette([value for index in range(256) for value in (index, 0, 0)])
    (tmp_path / "in/SegmentationClass").mkdir()
    mask.save(tmp_path / "in/SegmentationClass/a.png")
    run_convert(tmp_path / "in", tmp_path / "out")
    np.testing.assert_array_equal(read_mask(tmp_path / "out/masks/a.png"), indices)
    assert names_of(tmp_path / "out")[15] == "person"
    document = json.loads((tmp_path / "out/classes.json").read_text())
    assert document["colors"][15] == [192, 128, 128]


def test_one_annotation_of_several_of_a_task_counts(tmp_path: Path) -> None:
    document = label_studio_document()
    first = document[0]["annotations"][1]
    truth = {**first, "ground_truth": True, "result": first["result"][1:]}
    document[0]["annotations"] = [first, truth]
    label_studio(tmp_path / "in")
    source = write_json(tmp_path / "in/export.json", document)
    run_convert(source, tmp_path / "out", "--classes", "road,car")
    assert set(np.unique(read_mask(tmp_path / "out/masks/sub/a b.png"))) == {0, 2}
    (problem,) = problems_of(tmp_path / "out", "skipped")
    assert problem["record"] == "annotation 1 of 2"


def test_ids_of_any_type_and_labels_that_are_results_of_their_own(tmp_path: Path) -> None:
    document = label_studio_document()
    brush, polygon = document[0]["annotations"][1]["result"]
    brush["id"] = ["a", {}]
    polygon["type"] = "polygon"
    del polygon["value"]["polygonlabels"]
    label = {**polygon, "type": "labels", "value": {**polygon["value"], "labels": ["car"]}}
    document[0]["annotations"][1]["result"].append(label)
    label_studio(tmp_path / "in")
    source = write_json(tmp_path / "in/export.json", document)
    run_convert(source, tmp_path / "out")
    assert names_of(tmp_path / "out") == ["background", "car", "road"]
    assert set(np.unique(read_mask(tmp_path / "out/masks/sub/a b.png"))) == {0, 1, 2}
    assert len(problems_of(tmp_path / "out", "skipped")) == 1  # the annotation that was cancelled


def test_tasks_that_nobody_has_annotated(tmp_path: Path) -> None:
    document = label_studio_document()
    document[0]["annotations"] = []
    label_studio(tmp_path / "in")
    source = write_json(tmp_path / "in/export.json", document)
    run_convert(source, tmp_path / "out", "--classes", "road,car", exit_code=1)
    assert "nobody has annotated it" in problems_of(tmp_path / "out", "bad")[0]["reason"]


def test_uploaded_images_are_found_without_the_letters_before_their_names(tmp_path: Path) -> None:
    document = label_studio_document()
    document[0]["data"]["image"] = "/data/upload/3/0a1b2c3d-a%20b.jpg"
    label_studio(tmp_path / "in")
    source = write_json(tmp_path / "in/export.json", document)
    run_convert(source, tmp_path / "out", "--images", tmp_path / "in/images/sub")
    assert (tmp_path / "out/masks/a b.png").is_file()
    document[0] |= {"data": {"image": "/elsewhere"}, "file_upload": "0a1b2c3d-a b.jpg"}
    source = write_json(tmp_path / "in/export.json", document)
    run_convert(source, tmp_path / "out", "--images", tmp_path / "in/images/sub")


@settings(max_examples=100, deadline=None)
@given(pixels, st.booleans())
def test_run_lengths_come_back(mask: np.ndarray, by_column: bool) -> None:
    from pycocotools import mask as library

    runs = encode_runs(mask, by_column=by_column)
    np.testing.assert_array_equal(decode_runs(runs, *mask.shape, by_column=by_column), mask)
    code = library.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    np.testing.assert_array_equal(decode_runs(parse_coco_counts(code), *mask.shape, by_column=True), mask)


def test_long_runs_of_compressed_counts() -> None:
    from pycocotools import mask as library

    mask = np.zeros((900, 1100), np.uint8)
    mask[5:800, 7:1000] = 1
    mask[300:400, 300:400] = 0
    code = library.encode(np.asfortranarray(mask))["counts"].decode()
    np.testing.assert_array_equal(decode_runs(parse_coco_counts(code), 900, 1100, by_column=True), mask)


@settings(max_examples=60, deadline=None)
@given(pixels, st.randoms(use_true_random=False))
def test_brushes_are_read(mask: np.ndarray, choice: random.Random) -> None:
    """Runs and single words in turn, as they come, with counts of any length."""
    words = np.zeros((*mask.shape, 4), np.uint8)
    words[..., 3] = np.where(mask, choice.randint(1, 255), 0)
    words[..., 0] = 77  # colours are no opacity
    flat = words.ravel().tolist()
    lengths = [choice.randint(1, 16) for _ in range(4)]
    stream = [(len(flat), 32), (7, 5), *((length - 1, 4) for length in lengths)]
    at = 0
    while at < len(flat):
        which = choice.randrange(4)
        run = next((n for n, word in enumerate(flat[at:]) if word != flat[at]), len(flat) - at)
        is_run = choice.random() < 0.5
        count = min(2 ** lengths[which], run if is_run else choice.randint(1, 9), len(flat) - at)
        stream += [(int(is_run), 1), (which, 2), (count - 1, lengths[which])]
        stream += [(word, 8) for word in (flat[at : at + 1] if is_run else flat[at : at + count])]
        at += count
    np.testing.assert_array_equal(decode_brush(bits(*stream), *mask.shape), mask)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_json_is_read_in_pieces(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from protoseg_deploy.annotations import json_stream

    document = {"info": {"a": [1, 2]}, "images": [{"x": "\u00e4]}"}, 12345, -1.5e3, True], "empty": [], "last": 12}
    (tmp_path / "a.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    assert list(stream_elements(tmp_path / "a.json")) == [
        ("info", {"a": [1, 2]}),
        *(("images", element) for element in document["images"]),
        ("last", 12),
    ]
    (tmp_path / "b.json").write_text('\ufeff[1, NaN, "x"]', encoding="utf-8")
    first, second, third = (element for _, element in stream_elements(tmp_path / "b.json"))
    assert (first, third) == (1, "x")
    assert second != second


def test_a_conversion_that_is_killed_goes_on(tmp_path: Path) -> None:
    source, out = many(tmp_path / "in", 40), tmp_path / "out"
    program = (
        "import os, sys, protoseg_deploy.annotations.converting as c\n"
        "real = c.make_mask\n"
        "def stop(job, *rest):\n"
        "    if job.name == '20.jpg': os.kill(os.getpid(), 9)\n"
        "    return real(job, *rest)\n"
        "c.make_mask = stop\n"
        "from protoseg_deploy.cli import cli\n"
        "cli(['convert', *sys.argv[1:]])\n"
    )
    arguments = [str(source), "--out", str(out), "--workers", "0"]
    assert subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True).returncode == -9
    assert len(list((out / "masks").iterdir())) == 20
    result = run_convert(source, out, "--skip-existing", exit_code=1)
    assert "20 skipped" in result.stdout
    assert "40 masks" in result.stdout
    assert sorted(path.name for path in out.iterdir()) == ["classes.json", "labeled.txt", "masks", "report.json"]
