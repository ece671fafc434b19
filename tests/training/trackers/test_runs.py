"""Runs with trackers: what they are told, resuming, and that they stop nothing."""

import csv
import shutil

import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import Run, train
from protoseg_deploy.training.trackers import Limits, following
from tests.conftest import with_values
from tests.training.crashing import (
    STEPS,
    as_file,
    assert_same_runs,
    before_step,
    crash_at,
    run_segment,
    train_segment,
    while_writing,
)
from tests.training.launching import start, write_recipe
from tests.training.trackers.recording import blocking, noting, raising


def tracked(recipe, *names, **train_keys):
    return with_values(recipe, train={"trackers": list(names), **train_keys})


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["step", "name", "value"]
    return [(int(step), name, float(value)) for step, name, value in lines]


def lasting(figures):
    return [row for row in figures if row[1] != "train/images_per_second"]


def test_what_a_tracker_is_told(recipe, tmp_path, known):
    good = noting()
    known(good=good)
    train(tracked(recipe, "good"), tmp_path / "mine", build_method, quiet=True)
    (_, facts), *figures, (_, outcome) = good.told
    assert (facts.name, facts.first_step) == ("mine", 0)
    assert facts.parameters["train.steps"] == STEPS
    assert facts.parameters["method.prototypes.per_class"] == 2
    assert facts.parameters["data.classes"] == '["ground", "red", "blue"]'
    assert "train.max_hours" not in facts.parameters
    assert facts.tags["backbone"] == "test_resnet"
    steps = [step for _, step, _ in figures]
    assert steps == sorted(steps)
    assert {name for *_, values in figures for name in values} >= {"train/labeled", "train/lr", "miou_percent/student"}
    summary = Run(tmp_path / "mine").summary()
    assert outcome.status == "finished"
    assert outcome.summary["best_miou_percent"] == summary["best_miou_percent"]
    assert outcome.summary["best_step"] == summary["best_step"]
    assert [path.name for path in outcome.artefacts] == ["recipe.yaml", "labeled.txt"]
    assert not (tmp_path / "mine/tensorboard").exists(), "it was not asked for"


def test_tensorboard_is_what_is_written_by_default(recipe, tmp_path):
    assert recipe.train.trackers == ("tensorboard",)
    train(recipe, tmp_path / "run", build_method, quiet=True)
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1
    assert not (tmp_path / "run/metrics.csv").exists()


def test_no_tracker_at_all(recipe, tmp_path):
    train(tracked(recipe), tmp_path / "run", build_method, quiet=True)
    assert not (tmp_path / "run/tensorboard").exists()
    assert Run(tmp_path / "run").metrics()


def test_csv_holds_every_figure_of_the_run(recipe, tmp_path):
    train(tracked(recipe, "csv"), tmp_path / "run", build_method, quiet=True)
    logged = {
        (record["step"], f"train/{name}", value)
        for record in Run(tmp_path / "run").metrics()
        if record["kind"] == "train"
        for name, value in record.items()
        if isinstance(value, float)
    }
    found = rows(tmp_path / "run")
    assert logged <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("crash", [crash_at(before_step, 8), crash_at(while_writing, 6)], ids=["step", "checkpoint"])
def test_csv_of_a_killed_and_resumed_run_is_that_of_one_that_was_not(recipe, tmp_path, crash):
    followed = tracked(recipe, "csv", "tensorboard")
    run_segment(tmp_path, train_segment, followed, tmp_path / "whole", False)
    run_segment(tmp_path, train_segment, followed, tmp_path / "run", False, crash=crash)
    with (tmp_path / "run/metrics.csv").open("ab") as file:
        file.write(b"7,train/lab")  # as it was being written
    run_segment(tmp_path, train_segment, followed, tmp_path / "run", True)
    assert lasting(rows(tmp_path / "run")) == lasting(rows(tmp_path / "whole"))
    assert_same_runs(tmp_path / "run", tmp_path / "whole")


def test_a_csv_that_is_no_csv_is_begun_again(recipe, tmp_path, stopped):
    folder, _ = stopped
    (folder / "metrics.csv").write_bytes(b"\xff\xfe\n1,2\nx,y,z\n3,a,b\n3,name,0.5\n99,name,0.5\n\n3,name")
    result = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume", "train.trackers=[csv]"])
    assert result.exit_code == 0, result.output
    assert rows(folder)[0] == (3, "name", 0.5)
    assert rows(folder)[1][0] == 6


@pytest.mark.parametrize("where", ["start", "scalars", "finish"])
def test_a_tracker_that_raises_stops_nothing(recipe, tmp_path, known, where, stopped, capfd):
    _, whole = stopped
    known(bad=raising(where))
    train(tracked(recipe, "bad", "csv"), tmp_path / "mine", build_method)
    assert_same_runs(tmp_path / "mine", whole)
    assert rows(tmp_path / "mine")
    assert capfd.readouterr().err.count("bad is switched off: ConnectionError: no route to host") == 1


@pytest.mark.parametrize("where", ["start", "scalars", "finish"])
def test_a_tracker_that_blocks_stops_nothing(recipe, tmp_path, known, where, stopped, release, monkeypatch, capfd):
    _, whole = stopped
    known(bad=blocking(where, release))
    monkeypatch.setattr(following, "Limits", lambda: Limits(start_seconds=0.2, call_seconds=0.2, finish_seconds=0.5))
    train(tracked(recipe, "bad", "csv"), tmp_path / "mine", build_method)
    assert_same_runs(tmp_path / "mine", whole)
    assert rows(tmp_path / "mine")
    assert capfd.readouterr().err.count("bad is switched off: it has not") == 1


def test_a_missing_library_is_an_error_before_anything_is_written(recipe, tmp_path, known):
    known(needy=type("Needy", (noting(),), {"libraries": ("no_such_library",), "extra": "mlflow"}))
    with pytest.raises(UsageError, match="needy needs no_such_library"):
        train(tracked(recipe, "needy"), tmp_path / "run", build_method, quiet=True)
    assert not (tmp_path / "run").exists()


def test_trackers_that_are_unknown_or_named_twice(recipe):
    with pytest.raises(RecipeError, match="'tensorbord' is not one of 'tensorboard', 'csv', 'mlflow' or 'wandb'"):
        tracked(recipe, "tensorbord")
    with pytest.raises(RecipeError, match="each tracker once"):
        tracked(recipe, "csv", "csv")


def test_trackers_may_change_when_a_run_resumes(recipe, stopped, known):
    folder, _ = stopped
    good = noting()
    known(good=good)
    train(tracked(Run(folder).recipe(), "good"), folder, build_method, resume=True, quiet=True)
    assert good.told[0][1].first_step == 5
    assert good.told[1][1] == 6
    assert Run(folder).recipe().train.trackers == ("good",)


def test_a_stopped_and_a_failed_run_say_so(recipe, tmp_path, known, monkeypatch):
    good = noting()
    known(good=good)
    path = as_file(tracked(recipe, "good", max_hours=1e-9), tmp_path)
    assert CliRunner().invoke(cli, ["train", str(path), "--run", str(tmp_path / "run")]).exit_code == 0
    assert good.told.pop()[1].status == "stopped"

    def fail(self, batch):
        raise RuntimeError("broken")

    monkeypatch.setattr("protoseg_deploy.training.Trainer.train_step", fail)
    with pytest.raises(RuntimeError, match="broken"):
        train(tracked(recipe, "good"), tmp_path / "other", build_method, quiet=True)
    assert good.told[-1][1].status == "failed"


@pytest.mark.parametrize("name", ["metrics.csv", "mlflow", "wandb"])
def test_nothing_is_written_through_a_link(stopped, tmp_path, name):
    folder, _ = stopped
    (tmp_path / "elsewhere").mkdir()
    (folder / name).symlink_to(tmp_path / "elsewhere" / "x")
    result = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume", "train.trackers=[csv]"])
    assert result.exit_code == 2
    assert f"{name} is a link" in result.stderr


def test_the_first_of_several_processes_writes_alone(tiny_recipe, tmp_path):
    recipe = with_values(tiny_recipe, train={"trackers": ["csv"], "batch_unlabeled": 4})
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    start(["-m", "protoseg_deploy", "train", str(path), "--run-folder", str(tmp_path / "run")], tmp_path)
    found = [row[:2] for row in rows(tmp_path / "run")]
    assert found
    assert len(found) == len(set(found))


def test_earlier_runs_have_tensorboard(stopped):
    folder, _ = stopped
    for path in (folder / "recipe.yaml", folder / "recipe.copy.yaml"):
        tree = yaml.safe_load(path.read_text())
        del tree["train"]["trackers"]
        path.write_text(yaml.safe_dump(tree))
    shutil.rmtree(folder / "tensorboard")
    assert CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume"]).exit_code == 0
    assert list((folder / "tensorboard").iterdir())
