"""Data-loader workers that find no room, die, are late or are stopped."""

import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from itertools import product
from pathlib import Path

import pytest
import torch

from protoseg_deploy.data import find_data, shared_memory
from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.cache import DecodedImages
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.shared_memory import WorkerPlan, free_shared_bytes, plan_workers
from protoseg_deploy.data.workers import LoaderError, TrainingLoader
from protoseg_deploy.distributed import World
from protoseg_deploy.errors import UsageError
from tests.conftest import with_values

MIB = 2**20
ROOT = Path(__file__).resolve().parents[2]

forks = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="what a test changes reaches data-loader workers by fork alone"
)


@pytest.fixture
def batches(tiny_recipe):
    return batches_of(tiny_recipe)


def batches_of(recipe, **options):
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    return TrainingBatches(recipe, sets.labeled, sets.unlabeled, **options)


def loader(batches, workers=2, timeout_s=60.0):
    return TrainingLoader(batches, 0, WorkerPlan(workers, 1), pin_memory=False, timeout_s=timeout_s)


@pytest.fixture
def at_step(monkeypatch):
    """Let the data-loader worker of a step do something before it makes the batch."""

    def change(step, action):
        make = TrainingBatches.batch

        def act(self, number):
            if number == step and multiprocessing.parent_process() is not None:
                action()
            return make(self, number)

        monkeypatch.setattr(TrainingBatches, "batch", act)

    return change


@pytest.mark.parametrize("fixed", [True, False])
def test_a_plan_fits_and_is_the_largest_that_does(monkeypatch, fixed):
    batch = 10 * MIB
    for free, wanted, processes in product((1, 30, 64, 200, 500, 10_000), (0, 1, 4, 8), (1, 2)):
        monkeypatch.setattr(shared_memory, "free_shared_bytes", lambda free=free: free * MIB)
        fitting = [
            (workers, ahead)
            for workers in ([wanted] if fixed else range(1, wanted + 1))
            for ahead in (1, 2, 3, 4)
            if wanted and (workers * ahead + 2) * processes * batch <= 0.9 * free * MIB
        ]
        if fixed and wanted and not fitting:
            with pytest.raises(UsageError, match=rf"train.workers.*{wanted} .*/dev/shm has {free}") as caught:
                plan_workers(wanted, batch, fixed=True, training_processes=processes)
            assert "--shm-size" in caught.value.hint
            assert "train.workers=0" in caught.value.hint
            continue
        plan = plan_workers(wanted, batch, fixed=fixed, training_processes=processes)
        assert (plan.workers, plan.prefetch) == max(fitting, default=(0, 4))
        as_wanted = plan.workers == wanted and (plan.prefetch == 4 or not wanted)
        assert as_wanted == (not plan.note)
        assert as_wanted or "/dev/shm" in plan.note


def test_where_shared_memory_has_no_limit_of_its_own_nothing_is_changed(monkeypatch):
    monkeypatch.setattr(shared_memory, "free_shared_bytes", lambda: None)
    assert plan_workers(8, 2**50, fixed=False) == WorkerPlan(8)


@pytest.mark.parametrize("in_loader", [True, False])
@pytest.mark.parametrize(("views", "world"), [(1, World(0, 1)), (2, World(1, 2))])
def test_the_size_of_a_batch_is_foretold(tiny_recipe, in_loader, views, world):
    recipe = with_values(tiny_recipe, train={"batch_labeled": 4, "batch_unlabeled": 6, "crop": 50})
    batches = batches_of(recipe, strong_views=views, augment_in_loader=in_loader, world=world)
    tensors = [value for value in vars(batches.batch(0)).values() if isinstance(value, torch.Tensor)]
    taken = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert taken <= batches.batch_bytes() <= taken + 2 * 4096 * len(tensors)


@forks
@pytest.mark.parametrize(("number", "says"), [("SIGKILL", "memory runs out"), ("SIGBUS", "/dev/shm is full")])
def test_a_loader_process_that_is_killed_is_one_error(batches, at_step, capfd, number, says):
    at_step(3, lambda: os.kill(os.getpid(), signal.Signals[number]))
    seen = []
    with pytest.raises(LoaderError, match=f"killed by {number}.*{says}"), closing(iter(loader(batches))) as arriving:
        seen.extend(arriving)
    assert len(seen) <= 3
    assert "Traceback" not in capfd.readouterr().err
    assert not multiprocessing.active_children()


@forks
def test_a_death_is_found_when_a_batch_is_waited_for_and_not_in_the_middle_of_something_else(batches):
    before = signal.getsignal(signal.SIGCHLD)
    with closing(iter(loader(batches))) as arriving:
        next(arriving)
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        for _ in range(1000):
            time.sleep(0)  # an error that a signal raises would come here
        with pytest.raises(LoaderError, match="SIGKILL"):
            list(arriving)
    assert signal.getsignal(signal.SIGCHLD) == before


@forks
@pytest.mark.parametrize("how", ["sleeps", "is stopped"])
def test_a_batch_that_does_not_come_names_what_is_being_read(batches, monkeypatch, how):
    slow, read = batches.unlabeled[4], DecodedImages.unlabeled

    def wait(self, path):
        if path == slow:
            if how == "sleeps":
                time.sleep(3600)
            os.kill(os.getpid(), signal.SIGSTOP)
        return read(self, path)

    monkeypatch.setattr(DecodedImages, "unlabeled", wait)
    with pytest.raises(LoaderError, match=r"train\.timeout_s") as caught:
        list(loader(batches, timeout_s=2.0))
    assert str(slow) in caught.value.message
    assert "train.workers=0" in caught.value.hint
    assert not multiprocessing.active_children()


@forks
def test_a_slow_batch_within_the_time_is_waited_for(batches, at_step):
    at_step(1, lambda: time.sleep(3))
    alone = [batch.files for batch in map(batches.batch, range(8))]
    assert [batch.files for batch in loader(batches, timeout_s=60.0)] == alone


@forks
def test_a_loader_that_is_left_ends_its_processes_whatever_they_do(batches, at_step):
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    with closing(iter(loader(batches))) as arriving:
        assert isinstance(next(arriving), Batch)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


@forks
def test_the_program_ends_even_where_a_loader_process_cannot_be_killed(batches, tmp_path):
    """As in a read of a drive that is gone; here nobody kills it."""
    code = (
        "import multiprocessing, os, pathlib, pickle, signal, sys\n"
        "from protoseg_deploy.data.loading import TrainingBatches\n"
        "from protoseg_deploy.data.workers import TrainingLoader, WorkerPlan\n"
        "def stop(self, step):\n"
        "    pathlib.Path('worker').write_text(str(os.getpid()))\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "TrainingBatches.batch = stop\n"
        "multiprocessing.Process.kill = multiprocessing.Process.terminate = lambda self: None\n"
        "batches = pickle.loads(sys.stdin.buffer.read())\n"
        "next(iter(TrainingLoader(batches, 0, WorkerPlan(1), pin_memory=False, timeout_s=4.0)))\n"
    )
    said = tmp_path / "said"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    try:
        with said.open("wb") as file:  # a pipe would be held open by the process that stays
            command = [sys.executable, "-c", code]
            subprocess.run(
                command, input=pickle.dumps(batches), stderr=file, cwd=tmp_path, env=environment, timeout=120
            )
        assert "LoaderError: no batch has come for 4 s" in said.read_text()
    finally:
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)


def test_full_shared_memory_is_named(batches, tmp_path):
    """In a mount namespace of its own, whose /dev/shm holds one MiB."""
    code = (
        "import pickle, sys\n"
        "from protoseg_deploy.data.shared_memory import free_shared_bytes\n"
        "from protoseg_deploy.data.workers import TrainingLoader, WorkerPlan\n"
        "print(free_shared_bytes())\n"
        "batches = pickle.loads(sys.stdin.buffer.read())\n"
        "list(TrainingLoader(batches, 0, WorkerPlan(2), pin_memory=False, timeout_s=60.0))\n"
    )
    recipe = with_values(batches.recipe, train={"crop": 256})
    wide = TrainingBatches(recipe, batches.labeled, batches.unlabeled)
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=1M none /dev/shm && exec "$0" "$@"']
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("a small /dev/shm needs `unshare` and the right to mount")
    done = subprocess.run([*small, sys.executable, "-c", code], input=pickle.dumps(wide), capture_output=True)
    assert 0 < int(done.stdout) <= MIB
    assert b"LoaderError: /dev/shm has no room for a batch: No space left on device" in done.stderr
    assert b"--shm-size" in done.stderr
    assert free_shared_bytes() != int(done.stdout)
