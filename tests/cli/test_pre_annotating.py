"""``predict --format``: what it writes beside the masks, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from protoseg_deploy.choices import PRE_ANNOTATION_FORMATS
from protoseg_deploy.cli import cli

pytestmark = pytest.mark.usefixtures("runtime")

FILES = {"coco": "coco.json", "cvat": "cvat.xml", "labelme": "labelme", "labelstudio": "labelstudio.json"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(["a.jpg.png", "sub/b.png"]):
        image = np.zeros((30, 40, 3), np.uint8)
        image[5:20, 5:25] = 1
        image[8:12, 8 : 12 + number] = 2
        image[25, 30] = 3
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "in" / name)
    return tmp_path / "in"


def run(command: str, *arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [command, *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    return result


@pytest.mark.parametrize("format_name", PRE_ANNOTATION_FORMATS)
def test_what_is_written_converts_to_what_was_predicted(tmp_path: Path, images: Path, format_name: str) -> None:
    out = tmp_path / "out"
    options = ("--format", format_name, "--tolerance", 0, "--min-area", 0)
    result = run("predict", "fake", images, "--out", out, *options)
    path = out / "annotations" / FILES[format_name]
    assert f": {path} (tolerance 0 px)" in result.stdout
    names = ",".join(f"class{index}" for index in range(4))
    run("convert", path, "--images", images, "--out", tmp_path / "back", "--classes", names, "--unlabeled", "class0")
    for name in ("a.jpg.png", "sub/b.png"):
        with Image.open(out / "index" / name) as index, Image.open(tmp_path / "back/masks" / name) as back:
            np.testing.assert_array_equal(np.array(back), np.array(index))
            assert set(np.unique(np.array(back))) == {0, 1, 2, 3}


def test_images_done_before_are_annotated_too(tmp_path: Path, images: Path) -> None:
    out = tmp_path / "out"
    run("predict", "fake", images, "--out", out)
    result = run("predict", "fake", images, "--out", out, "--skip-existing", "--format", "coco", "--json")
    document = json.loads(result.stdout)
    assert all(image["skipped"] for image in document["images"])
    assert document["annotations"] == {
        "format": "coco",
        "path": str(out / "annotations/coco.json"),
        "regions": 6,
        "regions_left_out": 2,
        "tolerance_px": 1.0,
        "min_area_px": 16,
    }
    written = json.loads((out / "annotations/coco.json").read_text())
    assert [image["file_name"] for image in written["images"]] == ["a.jpg.png", "sub/b.png"]
    assert len(written["annotations"]) == 6


def test_images_that_fail_are_not_annotated(tmp_path: Path, images: Path) -> None:
    (images / "broken.png").write_bytes(b"nothing")
    run("predict", "fake", images, "--out", tmp_path / "out", "--format", "coco", exit_code=1)
    assert len(json.loads((tmp_path / "out/annotations/coco.json").read_text())["images"]) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tolerance", "1"], "--tolerance is for pre-annotations: add --format."),
        (["--min-area", "1"], "--min-area is for pre-annotations: add --format."),
        (["--format", "coco", "--tolerance", "nan"], "not a finite number"),
        (["--format", "coco", "--shards", "2"], "--format does not apply in shards"),
        (["--format", "voc"], "'voc' is not one of"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, images: Path, options: list[str], message: str) -> None:
    result = run("predict", "fake", images, "--out", tmp_path / "out", *options, exit_code=2)
    assert message in result.stderr
    assert not (tmp_path / "out").exists()
