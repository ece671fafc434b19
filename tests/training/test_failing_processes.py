"""One of two processes fails, dies, is asked to stop, or stands still."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from protoseg_deploy.training import Run
from tests.conftest import with_values
from tests.training.launching import ROOT, start, write_recipe


def test_an_error_of_one_process_is_said_once_and_without_a_traceback(tiny_recipe, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    for path in (tmp_path / "data/labeled/images").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    recipe = with_values(tiny_recipe, data={"root": str(tmp_path / "data")})
    verb = ["train", str(write_recipe(tmp_path / "recipe.yaml", recipe)), "--run-folder", str(tmp_path / "run")]
    done = start(["-m", "protoseg_deploy", *verb], tmp_path, check=False)
    assert done.returncode != 0
    assert done.stderr.count("Error: the data of the recipe cannot be used") == 1
    assert "another process of this training has failed" in done.stderr
    # what torchrun itself says of the failed workers comes after
    assert "Traceback" not in done.stderr.split("torch/distributed/elastic")[0]


def test_a_killed_worker_is_restarted_and_training_ends_with_the_right_number_of_steps(tiny_recipe, tmp_path):
    recipe = with_values(
        tiny_recipe, train={"steps": 9, "checkpoint_every": 3, "log_every": 1, "eval_every": 9, "batch_unlabeled": 4}
    )
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    verb = ["train", str(path), "--run-folder", str(tmp_path / "run"), "--continue", "--json"]
    worker = ["-m", "tests.training.dying_worker", str(tmp_path / "died"), "SIGKILL", "5"]
    done = start([*worker, *verb], tmp_path, "--max-restarts=2")
    assert (tmp_path / "died").exists(), "the worker did die"
    assert "resuming after step 3" in done.stderr
    run = Run(tmp_path / "run")
    assert run.summary()["steps"] == 9
    assert run.summary()["processes"] == 2
    steps = [record["step"] for record in run.metrics() if record["kind"] == "train"]
    assert steps == list(range(1, 10)), "every step is logged once, by one process"
    assert len(list((run.folder / "tensorboard").iterdir())) == 2, "one file of the first process a start"
    states = run.checkpoints.load_newest()[0]["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"]), "dropout differs between processes"


def test_sigterm_to_one_process_stops_all_after_the_same_step(tiny_recipe, tmp_path):
    recipe = with_values(
        tiny_recipe,
        train={"steps": 400, "checkpoint_every": 400, "log_every": 4, "eval_every": 400, "batch_unlabeled": 4},
    )
    verb = ["train", str(write_recipe(tmp_path / "recipe.yaml", recipe)), "--run-folder", str(tmp_path / "run")]
    worker = ["-m", "tests.training.dying_worker", str(tmp_path / "asked"), "SIGTERM", "6"]
    done = start([*worker, *verb], tmp_path, check=False)
    assert done.returncode != 0
    assert "stopped by SIGTERM after step 8" in done.stderr
    assert [path.name for path in Run(tmp_path / "run").checkpoints.paths()] == ["step-00000008.pt"]


@pytest.mark.parametrize(
    ("stopped", "says"),
    [
        (1, "process 1 of this training sent no heartbeat for 2 s"),
        (0, "the first process of this training, or torchrun beside it, sent no heartbeat"),
    ],
)
def test_a_process_that_is_stopped_ends_the_other_one(tmp_path, stopped, says):
    """Started as `torchrun` would, which itself takes half a minute to end the one that is stopped."""
    code = (
        "import os, signal, torch.distributed as dist\n"
        "from protoseg_deploy.recipe import Train\n"
        "from protoseg_deploy.training.processes import process_group, wait_for_others\n"
        "with process_group(Train(device='cpu', timeout_s=2.0)):\n"
        "    wait_for_others()\n"
        f"    if dist.get_rank() == {stopped}: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    wait_for_others()\n"
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "one"}
    environment = os.environ | job | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    errors = [tmp_path / "0", tmp_path / "1"]
    processes = []
    for rank, path in enumerate(errors):
        own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with path.open("w") as file:
            processes.append(subprocess.Popen([sys.executable, "-c", code], stderr=file, env=own))
    other = 1 - stopped
    try:
        assert processes[other].wait(120) == 1
    finally:
        for process in processes:
            process.kill()
    said = errors[other].read_text()
    assert said.count("Error: ") == 1
    assert says in said
    assert "--continue" in said


def test_processes_wait_longer_than_the_limit_for_one_that_works(tmp_path):
    code = (
        "import time, torch.distributed as dist\n"
        "from protoseg_deploy.recipe import Train\n"
        "from protoseg_deploy.training.processes import process_group, wait_for_others\n"
        "with process_group(Train(device='cpu', timeout_s=1.0)):\n"
        "    time.sleep(4 * dist.get_rank())\n"
        "    wait_for_others()\n"
        "print('together')\n"
    )
    (tmp_path / "waiting.py").write_text(code)
    assert start([str(tmp_path / "waiting.py")], tmp_path).stdout.count("together") == 2
