"""``predict`` in shards from the outside: documents, exit codes, and what belongs to which form."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from protoseg_deploy.cli import cli
from tests.fake_runtime import FakeRuntime

SHARDED = ("--workers", 0, "--shards", 2)


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


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_images_may_be_named_by_an_option_in_both_forms(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    run(images, "--out", tmp_path / "argument")
    run("--images", images, "--out", tmp_path / "option")
    assert files(tmp_path / "option") == files(tmp_path / "argument")
    assert len(files(tmp_path / "option")) == 9
    run("--images", images / "a.png", "--images", images / "b.png", images / "c.png", "--out", tmp_path / "three")
    assert files(tmp_path / "three") == files(tmp_path / "argument")
    run(images / "c.png", "--images", images / "a.png", "--out", tmp_path / "shards", *SHARDED)
    assert [name for name in files(tmp_path / "shards") if name.startswith("index")] == ["index/a.png", "index/c.png"]


def test_what_is_done_is_told_and_the_same_command_resumes(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("--images", images, "--out", out, *SHARDED)
    assert "3 of 3 images in" in result.stdout
    assert f"{out}/index, rows in {out}/results" in result.stdout
    (out / "results/shard-00000.parquet").unlink()
    assert "(1 of 2 shards had been done before)" in run("--images", images, "--out", out, *SHARDED).stdout
    assert len(list((out / "results").iterdir())) == 2


def test_the_plain_form_leaves_results_of_shards_alone(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run("--images", images, "--out", out, *SHARDED)
    before = files(out)
    assert "belongs to a prediction in shards" in run("--images", images, "--out", out, exit_code=2).stderr
    assert files(out) == before


def test_rows_name_the_digest_of_the_artefact(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    run("--images", images, "--out", tmp_path / "out", *SHARDED)
    rows = pq.read_table(tmp_path / "out/results", columns=["artefact_sha256"]).to_pylist()
    assert {row["artefact_sha256"] for row in rows} == {hashlib.sha256(b"weights").hexdigest()}


def test_a_document_counts_images_and_pixels_of_all_shards(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    (images / "d.png").write_bytes(b"no image")
    (images / "scan.dcm").write_bytes(b"another format")
    arguments = ("--images", images, "--out", tmp_path / "out", "--json", "--pack", *SHARDED)
    for before in (0, 2):
        result = run(*arguments, exit_code=1)
        document = json.loads(result.stdout)
        assert (document["images"], document["predicted"], document["failed"]) == (4, 3, 1)
        assert (document["shards"], document["shards_done_before"]) == (2, before)
        assert document["first_failures"] == [f"{images}/d.png: not an image, or its header is damaged"]
        assert document["class_pixels"] == {"class0": 0, "class1": 24, "class2": 24, "class3": 24}
        assert document["masks"] == f"{tmp_path}/out/masks"
        assert "1 .dcm" in result.stderr


def test_failed_images_are_an_error_that_names_the_first_of_them(
    runtime: FakeRuntime, images: Path, tmp_path: Path
) -> None:
    for number in range(30):
        (images / f"{number:02}.png").write_bytes(b"no image")
    result = run("--images", images, "--out", tmp_path / "out", *SHARDED, exit_code=1)
    assert "30 of 33 images could not be predicted:" in result.stderr
    assert "19.png" in result.stderr
    assert "20.png" not in result.stderr
    assert "… and 10 more" in result.stderr
    assert f"{tmp_path}/out/results lists all of them" in result.stderr
    rows = [row for file in (tmp_path / "out/results").iterdir() for row in pq.read_table(file).to_pylist()]
    assert sum(row["status"] == "failed" for row in rows) == 30


def test_ctrl_c_keeps_finished_shards_and_says_how_to_go_on(runtime: FakeRuntime, images: Path, tmp_path: Path) -> None:
    def interrupted(array: np.ndarray) -> np.ndarray:
        if (array == ord("c")).all():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return array[..., 0] % 4

    runtime.function = interrupted
    result = run(images, "--out", tmp_path / "out", *SHARDED, exit_code=130)
    assert "the same command resumes" in result.stderr
    assert files(tmp_path / "out/results") == ["shard-00000.parquet"]
    assert not (tmp_path / "out/.predict.scratch").exists()


WRONG = [
    (("--out", "{tmp}/out"), "images or folders, --images or --manifest"),
    (("--out", "{tmp}/out", "--shards", 3), "give IMAGES, --images DIR or --manifest FILE"),
    (("{tmp}/in", "--out", "{tmp}/out", "--workers", 3), "--workers is for prediction in shards"),
    (("{tmp}/in", "--out", "{tmp}/out", "--address", "auto"), "--address is for prediction in shards"),
    (("{tmp}/in", "--out", "{tmp}/out", "--engine", "local", "--address", "auto"), "Add --engine ray"),
    (("{tmp}/in", "--out", "{tmp}/out", "--engine", "ray", "--workers", 0), "--workers 0 predicts in this process"),
    (("memory://in", "--out", "{tmp}/out"), "memory://in is for prediction in shards"),
    (("{tmp}/in", "--out", "memory://out"), "memory://out is for prediction in shards"),
    (("{tmp}/in", "--out", "{tmp}/out", "--pack", "--skip-existing"), "resumes by itself"),
    (("{tmp}/in", "--out", "{tmp}/out", "--shards", 0), "0 is not in the range"),
    (("{tmp}/in", "--out", "{tmp}/out", "--pack", "--tile", 4, "--overlap", 9), "does not fit tiles"),
    (("{tmp}/none", "--out", "{tmp}/out", "--pack"), "no such file or folder"),
    (("--manifest", "{tmp}/none", "--out", "{tmp}/out"), "none cannot be read: No such file"),
    (("--manifest", "", "--out", "{tmp}/out"), "an empty path"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[said for _, said in WRONG])
def test_a_wrong_command_line_is_refused_before_anything_is_written(
    runtime: FakeRuntime, images: Path, tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    result = run(*(str(word).replace("{tmp}", str(tmp_path)) for word in arguments), exit_code=2)
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
