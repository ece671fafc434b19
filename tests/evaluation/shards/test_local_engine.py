"""Worker processes that are killed, that crash, or whose parent is gone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from PIL import Image

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.shards.predicting import Workforce
from tests.evaluation.shards import in_workers
from tests.evaluation.shards.conftest import Predict, everything, expected, write_images

ROOT = Path(__file__).parents[3]
_LIMIT_S = 120


def started(
    graph: Path, images: Path, out: Path, workers: int, half: int
) -> tuple[subprocess.Popen, list[psutil.Process]]:
    """A slow prediction that has finished `half` of its shards, and its workers."""
    program = "tests.evaluation.shards.in_workers"
    command = [sys.executable, "-m", program, str(graph), str(images), str(out), str(workers)]
    program = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + _LIMIT_S
    while len(finished(out)) < half:
        assert program.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    children = psutil.Process(program.pid).children(recursive=True)  # one of them is Python's tracker of resources
    assert len(children) >= workers
    return program, children


def finished(out: Path) -> dict[Path, int]:
    folder = out / "results"
    return {path: path.stat().st_mtime_ns for path in folder.iterdir()} if folder.is_dir() else {}


def test_killed_at_half_it_goes_on_and_ends_byte_equal(predict: Predict, graph: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 320)
    program, workers = started(graph, tmp_path / "in", tmp_path / "out", workers=2, half=8)
    os.kill(program.pid, signal.SIGKILL)
    program.wait()
    _, alive = psutil.wait_procs(workers, timeout=_LIMIT_S)
    assert not alive, "workers end with the process that started them"
    done, masks = finished(tmp_path / "out"), len([*(tmp_path / "out/index").rglob("*.png")])
    assert 8 <= len(done) < 16
    assert masks <= 20 * (len(done) + 2), "at most one shard a worker was under way"
    result = predict(tmp_path / "in", tmp_path / "out", shards=16)
    assert (result.resumed, result.images) == (len(done), 320)
    now = finished(tmp_path / "out")
    assert {path: now[path] for path in done} == done, "what was finished is not computed again"
    predict(tmp_path / "in", tmp_path / "whole", shards=16)
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise on Windows")
def test_an_interrupt_stops_workers_and_leaves_nothing_unfinished(graph: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "in", 320)
    program, workers = started(graph, tmp_path / "in", tmp_path / "out", workers=1, half=4)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does
    assert program.wait(_LIMIT_S) == 130
    _, alive = psutil.wait_procs(workers, timeout=_LIMIT_S)
    assert not alive
    assert 4 <= len(finished(tmp_path / "out")) < 16
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {
        "index", "results", "plan.json", "plan.parquet", ".notes"
    }  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="signals are others on Windows")
def test_an_image_that_kills_its_worker_twice_is_a_failed_row_and_one_that_does_once_is_not(
    predict: Predict, images: Path, tmp_path: Path
) -> None:
    workforce = Workforce(workers=1, setup=in_workers.crash_at_two)
    result = predict(images, tmp_path / "out", shards=2, workforce=workforce)
    assert (tmp_path / "crashed").exists()
    assert (result.images, result.failed) == (11, 1)
    rows = [row for file in sorted((tmp_path / "out/results").iterdir()) for row in pq.read_table(file).to_pylist()]
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["image"] == str(images / "0/0004.png")
    assert failed["kind"] == "crash"
    assert failed["reason"].startswith(f"{images / '0/0004.png'}: worker processes die at it")
    assert "killed by SIGSEGV" in failed["reason"]
    done = [row for row in rows if row["status"] == "ok"]
    assert len(done) == 11
    for row in done:
        mask = np.asarray(Image.open(tmp_path / "out" / row["mask"]))
        np.testing.assert_array_equal(mask, expected(Path(row["image"])))
    assert not (tmp_path / "out/.notes").exists()


def test_workers_that_cannot_start_end_the_prediction(predict: Predict, images: Path, tmp_path: Path) -> None:
    workforce = Workforce(workers=1, setup=in_workers.crash)
    with pytest.raises(ProtosegError, match=r"3 worker processes have died in shard 0.*ended with code 3"):
        predict(images, tmp_path / "out", shards=2, workforce=workforce)


def test_an_error_in_a_worker_is_that_of_the_call(predict: Predict, images: Path, tmp_path: Path) -> None:
    """The runtime is replaced after the prediction was begun, and before its workers open it."""
    workforce = Workforce(workers=1, setup=in_workers.replace_graph)
    with pytest.raises(ProtosegError, match=r"tiny\.onnx is another artefact here") as caught:
        predict(images, tmp_path / "out", shards=2, workforce=workforce)
    assert caught.value.exit_code == 2
    assert not finished(tmp_path / "out")
