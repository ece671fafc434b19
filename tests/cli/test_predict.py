"""``predict`` from the outside: what it says of images that fail, that were done, or that it would harm."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from protoseg_deploy.cli import cli
from tests.fake_runtime import FakeRuntime


def run(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["predict", "fake", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(np.full((4, 6, 3), ord(name), np.uint8)).save(folder / f"{name}.png")
    return folder


def test_images_that_fail_are_shown_up_to_twenty_and_listed_in_full(
    runtime: FakeRuntime, images: Path, tmp_path: Path
) -> None:
    for number in range(30):
        (images / f"{number:02}.png").write_bytes(b"no image")
    result = run(images, "--out", tmp_path / "out", exit_code=1)
    assert "3 images in" in result.stdout
    assert "30 of 33 images could not be read:" in result.stderr
    assert "19.png" in result.stderr
    assert "20.png" not in result.stderr
    assert "… and 10 more" in result.stderr
    assert f"{tmp_path / 'out/failures.jsonl'} lists all of them." in result.stderr
    lines = (tmp_path / "out/failures.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Path(json.loads(line)["image"]).name for line in lines] == [f"{number:02}.png" for number in range(30)]


def test_json_names_kinds_of_failures_what_was_skipped_and_what_is_not_read(
    runtime: FakeRuntime, images: Path, tmp_path: Path
) -> None:
    arguments = (images, "--out", tmp_path / "out", "--json", "--skip-existing")
    assert [one["skipped"] for one in json.loads(run(*arguments).stdout)["images"]] == [False] * 3
    (images / "scan.dcm").write_bytes(b"another format")
    odd = os.fsdecode(b"\xff\xfe.png")
    (images / odd).write_bytes((images / "a.png").read_bytes())
    (images / f"x{odd}").write_bytes(b"nothing")
    result = run(*arguments, exit_code=1)
    document = json.loads(result.stdout_bytes.decode("utf-8", "strict"))
    assert [(Path(one["image"]).name, one["skipped"]) for one in document["images"]] == [
        ("a.png", True),
        ("b.png", True),
        ("c.png", True),
        ("\\xff\\xfe.png", False),
    ]
    assert document["images"][0]["class_pixels"] == {"class0": 0, "class1": 24, "class2": 0, "class3": 0}
    (failed,) = document["failed"]
    assert (Path(failed["image"]).name, failed["kind"]) == ("x\\xff\\xfe.png", "unreadable")
    assert document["unread"] == [{"folder": str(images), "files": {".dcm": 1}}]
    assert "1 .dcm" in result.stderr


def test_what_was_done_before_is_told(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    run(images, "--out", tmp_path / "out")
    (images / "c.png").write_bytes((images / "a.png").read_bytes())
    assert "(2 skipped, already predicted)" in run(images, "--out", tmp_path / "out", "--skip-existing").stdout
    assert "already predicted" not in run(images, "--out", tmp_path / "out").stdout


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    def interrupted(array: np.ndarray) -> np.ndarray:
        if (array == ord("b")).all():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return array[..., 0] % 4

    runtime.function = interrupted
    result = run(images, "--out", tmp_path / "out", exit_code=130)
    assert "--skip-existing resumes" in result.stderr
    left = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert left == ["color/a.png", "index/a.png", "overlay/a.png"]


def test_a_result_that_would_replace_an_image_is_a_wrong_command_line(
    runtime: FakeRuntime, images: Path, tmp_path: Path
) -> None:
    images.rename(tmp_path / "index")
    before = {path: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    result = run(tmp_path / "index", "--out", tmp_path, exit_code=2)
    assert "Choose another --out; nothing was written." in result.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "index").iterdir()} == before
    assert not (tmp_path / "color").exists()


def test_tiles_that_cannot_be_are_refused_before_anything_is_written(
    runtime: FakeRuntime, images: Path, tmp_path: Path
) -> None:
    for arguments, said in (
        (("--tile", 8, "--overlap", 8), "an overlap of 8 pixels does not fit"),
        (("--tile", 1, "--overlap", 10**30), "does not fit tiles of 1x1"),
        (("--tile", "0x4"), "is not a size"),
        (("--overlap", 4), "needs a tile size"),
    ):
        assert said in run(images, "--out", tmp_path / "out", *arguments, exit_code=2).stderr
        assert not (tmp_path / "out").exists()
    for arguments in (("--tile", 1), ("--tile", 10**30, "--batch", 10**30)):
        run(images, "--out", tmp_path / "out", *arguments)
        assert np.asarray(Image.open(tmp_path / "out/index/b.png")).tolist() == [[ord("b") % 4] * 6] * 4
