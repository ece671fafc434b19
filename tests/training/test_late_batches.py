"""A run whose batches do not come ends with what it has, and resumes from there."""

import multiprocessing
import os
import signal
import time

import pytest

from protoseg_deploy.data import shared_memory
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import Run, train
from tests.conftest import with_values
from tests.training.crashing import STEPS, assert_same_runs

pytestmark = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="what a test changes reaches data-loader workers by fork alone"
)


@pytest.fixture
def with_workers(recipe):
    """No checkpoint is due before the end."""
    return with_values(recipe, train={"workers": 2, "checkpoint_every": STEPS, "timeout_s": 8.0})


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (lambda: time.sleep(3600), r"no batch has come for 8 s \(train.timeout_s\)"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "killed by SIGKILL, as the system does when memory runs out"),
    ],
    ids=["late", "killed"],
)
def test_the_steps_before_are_saved_and_the_run_goes_on(with_workers, tmp_path, monkeypatch, failure, says):
    make = TrainingBatches.batch

    def make_or_fail(self, step):
        if step == 9:  # asked for once the first batch has been used
            failure()
        return make(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "batch", make_or_fail)
        with pytest.raises(ProtosegError, match=rf"step \d+: .*{says}") as caught:
            train(with_workers, tmp_path / "run", build_method, quiet=True)
    (saved,) = Run(tmp_path / "run").checkpoints.paths()
    assert f"saved in {saved}; continue with the same command and --resume" in caught.value.hint
    alone = with_values(with_workers, train={"workers": 0})
    train(alone, tmp_path / "run", build_method, resume=True, quiet=True)
    train(alone, tmp_path / "whole", build_method, quiet=True)
    assert_same_runs(tmp_path / "run", tmp_path / "whole")


def test_what_cannot_be_shared_is_said_before_anything_is_written(with_workers, tmp_path, monkeypatch):
    monkeypatch.setattr(shared_memory, "free_shared_bytes", lambda: 4096)
    with pytest.raises(UsageError, match=r"train\.workers: 2 data-loader workers"):
        train(with_workers, tmp_path / "run", build_method, quiet=True)
    assert not (tmp_path / "run").exists()


def test_left_to_the_machine_workers_are_as_many_as_can_share(with_workers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared_memory, "free_shared_bytes", lambda: 4096)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2})
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    recipe = with_values(with_workers, train={"workers": "auto", "steps": 1})
    train(recipe, tmp_path / "run", build_method)
    assert "batches are made in the training process" in " ".join(capsys.readouterr().err.split())
