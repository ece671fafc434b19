"""A run has one owner: a second writer is refused with the name of the first, and changes nothing."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.locks import Owner
from protoseg_deploy.training import Run
from tests.conftest import with_values
from tests.training.crashing import as_file, assert_same_runs

_HOLD = """
import sys, time
from pathlib import Path
from protoseg_deploy.training.run import Run
with Run(Path(sys.argv[1])).owned():
    print("held", flush=True)
    time.sleep(120)
"""


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def held(stopped):
    """A run that was stopped, whose lock another process has; and that process."""
    folder, whole = stopped
    program = [sys.executable, "-c", _HOLD, str(folder)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield folder, whole, process
    process.kill()
    process.wait()


def test_every_way_to_write_into_a_run_is_refused_while_another_process_does(recipe, held, tmp_path):
    folder, whole, process = held
    before = contents(folder)
    recipe_file = str(as_file(recipe, tmp_path))
    for arguments in (
        ["train", "--run", str(folder), "--resume"],
        ["train", recipe_file, "--run", str(folder), "--continue"],
        ["train", "--run", str(folder), "--extend-to", "20"],
        ["train", recipe_file, "--run", str(folder)],
        ["distill", str(whole), "--run", str(folder), "--resume", "model.decoder=fpn"],
        ["distill", str(whole), "--run", str(folder)],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2, (arguments, result.output)
        assert f"{folder} is being written by process {process.pid} on {socket.gethostname()}" in result.stderr
    assert contents(folder) == before


def test_the_lock_of_a_killed_process_is_taken_over(held):
    folder, whole, process = held
    process.kill()
    process.wait()
    assert (folder / ".lock").is_file()
    result = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume"])
    assert result.exit_code == 0, result.output
    assert_same_runs(whole, folder)
    assert not (folder / ".lock").exists()


def test_a_process_on_another_host_is_taken_to_run_unless_told_otherwise(stopped):
    folder, whole = stopped
    (folder / ".lock").write_text(Owner(host="node7", pid=4711).model_dump_json())
    result = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume"])
    assert result.exit_code == 2
    assert "process 4711 on another host, node7" in result.stderr
    assert "--take-over" in result.stderr
    result = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume", "--take-over"])
    assert result.exit_code == 0, result.output
    assert_same_runs(whole, folder)


def test_a_refused_start_leaves_no_folder(recipe, tmp_path):
    broken = with_values(recipe, data={"classes": ["one"]})
    result = CliRunner().invoke(cli, ["train", str(as_file(broken, tmp_path)), "--run", str(tmp_path / "run")])
    assert result.exit_code in {1, 2}
    assert not (tmp_path / "run").exists()


def test_two_processes_leave_the_record_of_one(recipe, tmp_path):
    """What a second process does while the first trains."""
    folder = tmp_path / "run"
    long = as_file(with_values(recipe, train={"steps": 24, "checkpoint_every": 2, "eval_every": 24}), tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "protoseg_deploy", "train"]
    first = subprocess.Popen([*command, str(long), "--run", str(folder)], stderr=subprocess.PIPE, env=environment)
    deadline = time.monotonic() + 240
    while not Run(folder).checkpoints.paths():
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume"])
    said = first.communicate(timeout=240)[1].decode()
    assert first.returncode == 0, said
    if "is being written by" not in second.stderr:  # the first may have come to its end meanwhile
        assert second.exit_code == 0
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
