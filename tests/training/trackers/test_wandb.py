"""Weights & Biases: what its library is asked for, and, where it is installed, runs that are written offline."""

import json
import math
import sys
from types import SimpleNamespace

import pytest

from protoseg_deploy.methods import build_method
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.training import Run, train
from protoseg_deploy.training.trackers import Outcome, RunFacts
from protoseg_deploy.training.trackers.wandb_run import WandbTracker
from tests.conftest import with_values
from tests.training.crashing import STEPS


class FakeRun:
    def __init__(self, options):
        self.options, self.logged, self.summary, self.ended, self.metrics = options, [], {}, None, []

    def define_metric(self, name, step_metric=None):
        self.metrics.append((name, step_metric))

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        self.ended = exit_code


@pytest.fixture
def runs(monkeypatch):
    """Runs that are begun with a library that stands in for W&B."""
    begun = []

    def init(**options):
        begun.append(FakeRun(options))
        return begun[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **given: given))
    for name in ("WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    return begun


def facts(folder, first_step=0):
    return RunFacts(RunFolder(folder), "mine", first_step, {"train.lr": 0.1}, {"method": "fixmatch"})


def test_offline_by_default_and_the_same_run_when_it_resumes(runs, tmp_path):
    first, second = WandbTracker(), WandbTracker()
    first.start(facts(tmp_path))
    first.scalars({"train/loss": math.nan}, 3)
    second.start(facts(tmp_path, 2))
    second.scalars({"train/loss": 0.5}, 3)
    second.finish(Outcome("finished", {"best_step": 3}))
    one, other = runs
    assert one.options["mode"] == "offline"
    assert one.options["id"] == other.options["id"]
    assert one.options["dir"] == str(tmp_path)
    assert (one.options["project"], one.options["name"]) == ("protoseg", "mine")
    assert one.options["config"] == {"train.lr": 0.1, "protoseg.method": "fixmatch"}
    assert other.logged == [{"train/loss": 0.5, "step": 3}]
    assert ("*", "step") in other.metrics, "steps that come again are no error"
    assert (other.summary, other.ended) == ({"best_step": 3}, 0)


def test_the_environment_decides(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "cracks")
    tracker = WandbTracker()
    tracker.start(facts(tmp_path))
    tracker.finish(Outcome("stopped", {}))
    assert runs[0].options["mode"] == "online"
    assert runs[0].options["resume"] == "allow"
    assert runs[0].options["project"] == "cracks"
    assert runs[0].ended == 1


def test_a_damaged_identity_begins_a_new_run(runs, tmp_path):
    WandbTracker().start(facts(tmp_path))
    (tmp_path / "wandb/run.json").write_text("{")
    WandbTracker().start(facts(tmp_path))
    assert runs[0].options["id"] != runs[1].options["id"]
    assert json.loads((tmp_path / "wandb/run.json").read_text())["id"] == runs[1].options["id"]


def test_a_run_with_the_real_library(recipe, tmp_path, monkeypatch, capfd):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    train(with_values(recipe, train={"trackers": ["wandb"]}), tmp_path / "run", build_method)
    assert Run(tmp_path / "run").summary()["steps"] == STEPS
    (written,) = (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")
    assert b"miou_percent/student" in written.read_bytes()
    assert "switched off" not in capfd.readouterr().err
