"""``recommend`` from files and by measuring."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.benchmarking.test_recommending import ROWS
from tests.cli.test_judging import run
from tests.serving.small_bundles import write_bundle


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"runtimes": [row.model_dump(mode="json") for row in ROWS]}))
    return file


def test_from_a_file(measured: Path) -> None:
    text = run("recommend", "--target", "p99<20ms", "--on", measured).stdout
    assert text.startswith("good: 65.00 % mIoU")
    assert "ruled out: slow: p99 is 39.00 ms, not p99<20ms" in text
    document = json.loads(run("recommend", "--target", "p99<20ms", "--on", measured, "--json").stdout)
    assert document["best"]["runtime"] == "good"
    assert len(document["ruled_out"]) == 4
    named = run("recommend", "quick", "slow", "--target", "p99<20ms", "--on", measured).stdout
    assert named.startswith("quick: ")
    assert "nothing meets" in run("recommend", "--target", "p99<1ms", "--on", measured, exit_code=1).stdout
    assert "absent is in none" in run("recommend", "absent", "--target", "p99<1", "--on", measured, exit_code=2).stderr


def test_by_measuring(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "mine")
    for folder, shape in (("images", (8, 9, 3)), ("masks", (8, 9))):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / folder / "a.png")
    folders = ("--images", tmp_path / "images", "--masks", tmp_path / "masks")
    result = run("recommend", bundle, "--target", "size<1MB", *folders, "--json", exit_code=None)
    document = json.loads(result.stdout)
    rows = [document["best"]] if document["best"] else document["ruled_out"]
    assert [row["runtime"] for row in rows] == [f"{bundle}@fp32"]
    assert "nothing to choose from" in run("recommend", bundle, "--target", "size<1MB", exit_code=2).stderr
