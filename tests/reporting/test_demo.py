"""The demo from the outside, shortened: everything is made, and it goes on where it was stopped."""

import errno
import json
import signal

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.cli import cli
from protoseg_deploy.data import scenes
from protoseg_deploy.errors import WriteError
from protoseg_deploy.reporting import demo
from protoseg_deploy.training import Interrupted, Run

pytestmark = pytest.mark.usefixtures("traced_once")

SHORT = ["train.steps=2", "train.eval_every=2", "train.workers=0"]


@pytest.fixture(scope="module", autouse=True)
def measured_shortly():
    """Latencies are measured for an instant: two seconds a network is for figures that somebody looks at."""

    def shortly(runtimes, *, images, seconds, warmup_seconds):
        assert seconds >= 1
        return measure_interleaved(runtimes, images=images, seconds=0.05, warmup_seconds=0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "measure_interleaved", shortly)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "out"
    patch = pytest.MonkeyPatch()
    patch.setattr(demo, "write_scenes", lambda data: scenes.write_scenes(data, labeled=14, unlabeled=16, val=6))
    result = CliRunner().invoke(cli, ["demo", "--out", str(folder), "--json", *SHORT])
    patch.undo()
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout), result.stderr


def test_the_table_has_every_stage(made):
    _, document, _ = made
    assert [row["name"] for row in document["rows"]] == [
        "supervised",
        "fixmatch",
        "prototype",
        "student",
        "student ONNX",
        "student int8",
    ]
    for row in document["rows"]:
        assert 0 <= row["miou_percent"] <= 100
        assert row["parameters"] > 0
        assert row["file_bytes"] > 0
        assert row["latency_p50_ms"] > 0
    student, onnx, int8 = document["rows"][3:]
    assert student["miou_percent"] == pytest.approx(onnx["miou_percent"], abs=0.2)
    assert student["parameters"] < document["rows"][2]["parameters"] / 4
    assert int8["file_bytes"] < 0.5 * onnx["file_bytes"]
    assert int8["miou_percent"] > onnx["miou_percent"] - 1


def test_stages_are_shown_as_commands_that_can_be_typed(made):
    folder, _, shown = made
    assert f"protoseg train demo --run {folder / 'runs' / 'fixmatch'} data.root={folder / 'data'}" in shown
    assert f"protoseg export {folder / 'runs' / 'student'} --bundle {folder / 'bundle'}" in shown


def test_the_panel_shows_images_and_predictions(made):
    folder, _, _ = made
    picture = np.asarray(Image.open(folder / "panel.png").convert("RGB"))
    assert picture.shape[0] > 300
    assert picture.shape[1] > picture.shape[0]
    assert picture.std() > 20


def test_called_again_it_keeps_what_is_finished(made):
    folder, _, _ = made
    before = (folder / "runs/prototype/best.safetensors").stat().st_mtime_ns
    result = CliRunner().invoke(cli, ["demo", "--out", str(folder), "--json", *SHORT])
    assert result.exit_code == 0, result.output
    assert (folder / "runs/prototype/best.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("stopped", [True, False])
def test_what_goes_wrong_points_to_the_same_command_alone(made, monkeypatch, stopped):
    folder, _, _ = made

    def fail(recipe, run, *_, **__):
        if stopped:
            raise Interrupted(run, 3, signal.SIGTERM)
        with Run(run).saying_what_is_safe():
            raise WriteError(run / "last.safetensors", OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(demo, "train", fail)
    said = CliRunner().invoke(cli, ["demo", "--out", str(folder), *SHORT]).stderr
    assert "ontinue with the same command" in said
    assert "--resume" not in said


@pytest.mark.parametrize(
    "name", ["thesis.tex", "data/labeled/images/0000.png", "data/classes.json", "panel.png", "runs/a"]
)
def test_a_folder_with_other_things_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("a photograph")
    result = CliRunner().invoke(cli, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert f"holds something else already: {name.split('/')[0]}" in result.stderr
    assert (tmp_path / name).read_text() == "a photograph"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
