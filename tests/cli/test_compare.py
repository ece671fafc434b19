"""``protoseg compare`` from the outside: trained once, then read, resumed, stopped, and made to fail."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.training import Run
from tests.conftest import recipe_tree

METHODS = ["supervised", "fixmatch+prototypes"]
SHORT = ["train.steps=4", "train.eval_every=2"]


def compare(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, ["compare", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def recipe(scenes, tmp_path_factory):
    tree = recipe_tree(scenes)
    tree["data"]["labeled_count"] = 3
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "out"
    arguments = [recipe, *SHORT, "--methods", ",".join(METHODS), "--seeds", 2, "--run", folder]
    result = compare(*arguments, "--json")
    return folder, arguments, json.loads(result.stdout)


def test_figures_are_those_of_the_runs(made):
    folder, _, document = made
    assert list(document["variants"]) == METHODS
    last = {}
    for name, variant in document["variants"].items():
        runs = [Run(folder / name / f"seed-{seed}") for seed in (0, 1)]
        last[name] = [run.summary()["last_miou_percent"] for run in runs]
        assert variant["last_miou_percent"]["mean"] == pytest.approx(np.mean(last[name]))
        assert variant["last_miou_percent"]["sd"] == pytest.approx(np.std(last[name], ddof=1))
        assert variant["peak_memory_mib"]["mean"] > 100
        assert [run.recipe().method.has_prototypes for run in runs] == [name.endswith("+prototypes")] * 2
    pairs = np.subtract(last[METHODS[1]], last[METHODS[0]])
    assert document["variants"][METHODS[1]]["last_difference"]["mean"] == pytest.approx(pairs.mean())
    assert json.loads((folder / "comparison.json").read_text()) == document
    assert (folder / "miou.png").stat().st_size > 10_000


def test_methods_of_a_seed_learn_from_the_same_labels_and_seeds_do_not(made):
    folder, _, _ = made
    labels = {
        (name, seed): (folder / name / f"seed-{seed}/labeled.txt").read_text() for name in METHODS for seed in "01"
    }
    for seed in "01":
        assert labels[METHODS[0], seed] == labels[METHODS[1], seed]
    assert labels[METHODS[0], "0"] != labels[METHODS[0], "1"]


def test_called_again_it_reads_what_is_finished(made):
    folder, arguments, document = made
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*")}
    shown = compare(*arguments)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("seed-*/*")} == before
    assert "run 1 of" not in shown.stderr
    assert "2/2" in shown.stdout
    assert "Against supervised" in shown.stdout
    assert json.loads((folder / "comparison.json").read_text()) == document


def test_another_recipe_is_refused_by_key(made):
    _, arguments, _ = made
    said = compare(*arguments, "train.lr=0.5", exit_code=2).stderr
    assert "these keys differ: train.lr" in said


def test_interrupted_runs_are_resumed_and_a_run_that_fails_is_named(made, tmp_path):
    original, arguments, document = made
    folder = tmp_path / "out"
    shutil.copytree(original, folder)
    name = METHODS[1]
    run = Run(folder / name / "seed-1")
    run.summary_path.unlink()
    run.checkpoints.paths()[-1].unlink()
    run.forget_after(2)
    more = [
        "--run",
        folder,
        "--seeds",
        "1,",
        "--jobs",
        2,
        "--variant",
        "half: method.name=fixmatch train.precision=fp16",
    ]
    said = compare(*arguments[: arguments.index("--seeds")], *more, exit_code=1).stderr
    assert "half/seed-1 failed, exit code 2" in said
    assert "1 of 3 runs failed: half/seed-1" in said
    assert "fp16 trains on CUDA only" in (folder / "half/seed-1.log").read_text()
    assert "resuming after step 2" in (folder / name / "seed-1.log").read_text()
    variants = json.loads((folder / "comparison.json").read_text())["variants"]
    assert [variants[key]["runs"][0]["state"] for key in (*METHODS, "half")] == ["finished", "finished", "failed"]
    for figure in ("best_miou_percent", "last_miou_percent", "last_iou_percent"):
        assert variants[name]["runs"][0][figure] == document["variants"][name]["runs"][1][figure]


def test_what_is_stopped_is_saved_and_shown_as_unfinished(recipe, tmp_path):
    folder = tmp_path / "out"
    arguments = [recipe, "train.steps=100000", "--methods", "supervised,fixmatch", "--run", folder, "--seeds", 1]
    program = [sys.executable, "-m", "protoseg_deploy", "compare", *map(str, arguments)]
    process = subprocess.Popen(program, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    run = Run(folder / "supervised/seed-0")
    deadline = time.monotonic() + 120
    while not run.checkpoints.paths():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert f"is being written by process {process.pid} on" in compare(*arguments, exit_code=2).stderr
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "The same command resumes" in said
    variants = json.loads((folder / "comparison.json").read_text())["variants"]
    assert [variants[name]["runs"][0]["state"] for name in variants] == ["unfinished", "not started"]
    assert run.checkpoints.load_newest()[0]["step"] >= variants["supervised"]["runs"][0]["step"] > 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--methods", "fixmach"], "did you mean 'fixmatch'?"),
        (["--methods", "fixmatch", "--seeds", "0,0"], "each once"),
        (["--methods", "fixmatch", "--seeds", "many"], "a list (0,3,5)"),
        (["--variant", "wide"], "Variants look like"),
        ([], "Nothing to compare"),
        (["--methods", "fixmatch", "train.seed=3"], "--seeds"),
        (["--methods", "fixmatch", "data.root=/nowhere"], "/nowhere"),
    ],
)
def test_wrong_commands_leave_nothing(recipe, tmp_path, options, says):
    result = CliRunner().invoke(cli, ["compare", str(recipe), "--run", str(tmp_path / "out"), *options])
    assert result.exit_code in {1, 2}
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["miou.png", "comparison.json", "comparison.md"])
def test_a_file_of_somebody_else_is_not_replaced(recipe, tmp_path, name):
    (tmp_path / name).write_text("years of work")
    said = compare(recipe, "--methods", "supervised", "--run", tmp_path, exit_code=2).stderr
    assert f"{tmp_path / name} is there" in said
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "years of work"


@pytest.mark.parametrize("link", ["supervised", "supervised/seed-0", "supervised/seed-0.log"])
def test_nothing_is_written_through_a_link(recipe, tmp_path, link):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out" / link).parent.mkdir(parents=True)
    (tmp_path / "out" / link).symlink_to(elsewhere)
    said = compare(recipe, "--methods", "supervised", "--run", tmp_path / "out", exit_code=2).stderr
    assert f"{tmp_path / 'out' / link} is a link" in said
    assert list(elsewhere.iterdir()) == []
