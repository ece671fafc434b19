"""``bench`` beyond latencies: accuracy beside them, steadiness, earlier measurements."""

import csv
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.runtimes import opening
from protoseg_deploy.runtimes.base import TimedPrediction
from tests.cli.test_judging import run
from tests.fake_runtime import FakeRuntime

FAST = ("--size", 8, "--runs", 25)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is opened takes the red channel for the class."""
    monkeypatch.setattr(opening, "open_runtime", lambda path, **_: FakeRuntime())


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    image = np.random.default_rng(0).integers(0, 4, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "images/a.png")
    Image.fromarray(image[..., 0]).save(tmp_path / "masks/a_m.png")
    return tmp_path


def test_accuracy_stands_beside_latency(data: Path) -> None:
    folders = ("--images", data / "images", "--masks", data / "masks", "--mask-template", "{stem}_m.png")
    found = json.loads(run("bench", "a", "b", *folders, *FAST, "--json").stdout)
    assert [one["miou_percent"] for one in found["runtimes"]] == [100, 100]
    table = run("bench", "a", "b", *folders, *FAST, "--markdown").stdout
    head, line, first, second = table.splitlines()[:4]
    assert head.startswith("| runtime | digest | mIoU % (95 %) |")
    assert first.startswith("| a | – | 100.00 (100.00–100.00) | 100.000 |")
    assert len({text.count("|") for text in (head, line, first, second)}) == 1
    assert "mIoU" in run("bench", "a", *folders, *FAST).stdout


def test_tables_and_pictures(data: Path) -> None:
    folders = ("--images", data / "images", "--masks", data / "masks", "--mask-template", "{stem}_m.png")
    for name in ("pareto.png", "pareto.svg"):
        lines = run("bench", "a", "b", *folders, *FAST, "--csv", "--plot", data / name).stdout.splitlines()
        rows = list(csv.DictReader(lines))
        assert [row["runtime"] for row in rows] == ["a", "b"]
        assert float(rows[0]["miou_percent"]) == 100
        assert (data / name).stat().st_size > 5000
    assert "no row has an mIoU" in run("bench", "a", *FAST, "--plot", data / "x.png", exit_code=2).stderr


def test_a_sweep_measures_every_combination(tmp_path: Path) -> None:
    arguments = ("bench", "a", "b", "--runs", 5, "--sweep", "batch=1,2,3", "size=8,4x6")
    rows = json.loads(run(*arguments, "--json").stdout)["runtimes"]
    found = [(row["runtime"], row["batch"], row["height"], row["width"]) for row in rows]
    assert found == [(name, batch, *size) for batch in (1, 2, 3) for size in ((8, 8), (4, 6)) for name in ("a", "b")]
    table = run(*arguments, "--markdown", "--plot", tmp_path / "sweep.svg").stdout.splitlines()
    assert table[0].startswith("| runtime | digest | batch | size |")
    assert table[5].startswith("| b | – | 1 | 4x6 |")
    assert "images per call" in (tmp_path / "sweep.svg").read_text()


def test_masks_need_their_images(data: Path) -> None:
    assert "--masks goes with --images" in run("bench", "a", "--masks", data / "masks", exit_code=2).stderr


def test_what_is_not_steady_is_refused_where_asked() -> None:
    result = run("bench", "a", "--size", 8, "--runs", 2, "--strict", exit_code=3)
    assert "runs are few" in result.stderr
    assert "not steady" in result.stdout
    assert run("bench", "a", "--size", 8, "--runs", 2).exit_code == 0


def test_an_earlier_measurement_is_compared_with(tmp_path: Path) -> None:
    earlier = tmp_path / "old.json"
    earlier.write_text(run("bench", "a", *FAST, "--json").stdout)
    document = json.loads(earlier.read_text())
    for key in [key for key in document if key.startswith("latency_")]:
        document[key] /= 1000
    (tmp_path / "fast.json").write_text(json.dumps(document))
    slower = run("bench", "a", *FAST, "--compare", tmp_path / "fast.json", "--max-slowdown", "15%", exit_code=1)
    assert "slower than the allowed 15 %" in slower.stderr
    result = run("bench", "a", *FAST, "--compare", earlier, "--max-slowdown", "100000", "--json")
    assert json.loads(result.stdout)["compared"]["slower"] is False


def test_what_cannot_be_compared_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = tmp_path / "old.json"
    earlier.write_text(run("bench", "a", *FAST, "--json").stdout)
    monkeypatch.setattr(opening, "open_runtime", lambda path, **_: pytest.fail("something was opened"))
    for arguments, described in (
        (("b", *FAST), "has no b (1 x 8x8); it has a (1 x 8x8, "),
        (("a", *FAST, "--batch", 2), "has no a (2 x 8x8)"),
        (("a", *FAST, "--threads", 7), "has no a (1 x 8x8, 7 threads)"),
        (("a", "--runs", 25, "--sweep", "batch=1,3"), "has no a (3 a call)"),
    ):
        assert described in run("bench", *arguments, "--compare", earlier, exit_code=2).stderr


def test_rows_of_files_stand_in_the_same_table(tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    document = json.loads(run("bench", "a", *FAST, "--json").stdout)
    document["machine"]["cpu"] = "a small board"
    there.write_text(json.dumps({"runtimes": [document, {**document, "miou_percent": 51.5}]}))
    alone = run("bench", "--read", there, "--markdown").stdout.splitlines()
    assert len(alone) == 4
    assert "51.50" in alone[3]
    together = run("bench", "b", *FAST, "--read", there, "--markdown").stdout.splitlines()
    assert [line.split(" | ")[0] for line in together[2:5]] == ["| a", "| a", "| b"]
    assert "a small board" in together[2]
    assert "not go with --json" in run("bench", "b", "--read", there, "--json", exit_code=2).stderr
    assert "nothing to measure" in run("bench", exit_code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--compare", "absent.json"), "no such file: absent.json"),
        (("--max-slowdown", "15%"), "--max-slowdown goes with --compare"),
        (("--compare", "x", "--max-slowdown", "-1%"), "-1"),
        (("--compare", "x", "--max-slowdown", "much"), "much"),
        (("--seconds", "nan"), "nan"),
        (("--read", "absent.json"), "--read: no such file: absent.json"),
        (("--plot", "x.pdf"), ".png or .svg"),
        (("--json", "--csv"), "give one of them"),
        (("--sweep", "batch=0"), "--sweep batch=0"),
        (("--sweep", "size=a"), "--sweep size=a"),
        (("--sweep", "depth=1"), "one of batch, size, threads"),
        (("--sweep", "batch=1", "batch=2"), "is given twice"),
        (("--sweep", "batch=2,1,2"), "names a value twice"),
        (("--sweep", "batch=1,2", "--batch", "4"), "--batch and --sweep batch=… say the same thing"),
    ],
)
def test_wrong_arguments(arguments, message: str) -> None:
    assert message in run("bench", "a", *arguments, exit_code=2).stderr


def test_cuda_graphs_are_a_matter_of_what_launches_from_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no RUNTIME launches from a CUDA graph" in run("bench", "a", *FAST, "--no-cuda-graph", exit_code=2).stderr
    assert "cuda_graph takes" in run("bench", "a", *FAST, "--sweep", "cuda_graph=1,2", exit_code=2).stderr

    def opened(path: Path, *, cuda_graph: bool, **_: object) -> FakeRuntime:
        runtime = FakeRuntime()
        runtime.info = dataclasses.replace(runtime.info, cuda_graph=cuda_graph, build_seconds=12.5)
        return runtime

    monkeypatch.setattr(opening, "open_runtime", opened)
    assert json.loads(run("bench", "a", *FAST, "--no-cuda-graph", "--json").stdout)["cuda_graph"] is False
    arguments = ("bench", "a", *FAST, "--sweep", "cuda_graph=on,off", "--plot", tmp_path / "x.png")
    rows = run(*arguments, "--markdown").stdout.splitlines()
    assert [row.split("|")[3].strip() for row in rows[:4]] == ["cuda_graph", "---", "on", "off"]
    assert "built in 12.5 s, loaded in" in run("bench", "a", *FAST).stdout


def test_a_request_that_is_faster_than_the_file_it_holds_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, **_: object) -> FakeRuntime:
        slow = path.name == "local"
        runtime = FakeRuntime(lambda images: time.sleep(0.004) or images[..., 0] if slow else images[..., 0])
        runtime.info = dataclasses.replace(runtime.info, sha256="ab" * 32, kind="pytorch" if slow else "server")
        if not slow:
            runtime.predict_timed = lambda images: TimedPrediction(images[..., 0], arrays_ns=1000)
        return runtime

    monkeypatch.setattr(opening, "open_runtime", opened)
    assert "the same file takes" in run("bench", "local", "server", *FAST).stderr
    assert "the same file takes" not in run("bench", "server", *FAST).stderr


def test_files_without_a_figure_are_no_measurements(tmp_path: Path) -> None:
    row = json.loads(run("bench", "a", *FAST, "--json").stdout)
    for content in ({"runtimes": []}, {**row, "miou_percent": float("nan")}, {**row, "latency_p50_ms": 1e9}):
        (tmp_path / "x.json").write_text(json.dumps(content))
        assert "of this version" in run("bench", "--read", tmp_path / "x.json", exit_code=1).stderr
    (tmp_path / "x.json").write_text(json.dumps({**row, "steady": False}))
    run("bench", "--read", tmp_path / "x.json", "--strict", exit_code=3)
    (tmp_path / "y.json").write_text(json.dumps({**row, "batch": 8}))
    table = run("bench", "--read", tmp_path / "x.json", "--read", tmp_path / "y.json", "--markdown").stdout
    assert "| – |" in table.splitlines()[3]


def test_masks_in_which_nothing_counts_are_refused(data: Path) -> None:
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(data / "masks/a_m.png")
    folders = ("--images", data / "images", "--masks", data / "masks", "--mask-template", "{stem}_m.png")
    assert "no pixel of any mask counts" in run("bench", "a", *folders, *FAST, "--json", exit_code=1).stderr
