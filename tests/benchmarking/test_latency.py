"""Latency measured by a clock that the fake runtimes themselves move."""

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image

from protoseg_deploy.benchmarking import call_series, latency
from protoseg_deploy.benchmarking.inputs import ImageBatch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.latency_report import LatencyReport, Opening
from protoseg_deploy.benchmarking.machine import describe_machine
from protoseg_deploy.benchmarking.memory import resident_peak_bytes
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.runtimes.base import TimedPrediction
from tests.fake_runtime import FakeRuntime


def measure_latency(runtime, **options) -> LatencyReport:
    """Of one runtime alone."""
    return measure_interleaved([runtime], **options)[0]


class Clock:
    """Stands in for the module `time`; only calls of runtimes make it go on."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.calls: list[str] = []

    def module(self) -> SimpleNamespace:
        return SimpleNamespace(
            perf_counter_ns=lambda: self.now_ns,
            perf_counter=lambda: self.now_ns / 1e9,
            process_time_ns=lambda: self.now_ns // 2,
        )

    def timed(self, runtime, name: str, arrays_ms: Iterator[float], **parts_ms: float | None):
        """Make a fake runtime take the given times, call by call; its engine half of them."""

        def call(images: np.ndarray) -> TimedPrediction:
            self.calls.append(name)
            taken = round(next(arrays_ms) * 1e6)
            self.now_ns += taken
            parts = {part: None if ms is None else round(ms * 1e6) for part, ms in parts_ms.items()}
            return TimedPrediction(images[..., 0], taken, **{"copies_ns": taken, "engine_ns": taken // 2, **parts})

        runtime.predict_timed = call
        return runtime


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    for module in (latency, call_series):
        monkeypatch.setattr(module, "time", stopped.module())
    return stopped


def test_figures_are_those_of_the_counted_calls(clock: Clock) -> None:
    """The very first call, 15 of the warm-up; then the first call of every turn of six is not counted."""
    numbers = np.random.default_rng(0).uniform(5, 9, 1000)
    runtime = clock.timed(FakeRuntime(), "a", chain([80.0], repeat(7.0, 15), numbers), engine_ns=3.0)
    report = measure_latency(runtime, batch=4, size=(10, 12), runs=23)
    counted = np.array([time for place, time in enumerate(numbers[:60]) if place % 6])[:25].round(6)
    stats = report.stats
    assert (report.boundary, list(report.boundaries)) == ("arrays", ["engine", "copies", "arrays"])
    assert (stats.runs, stats.warmup_runs, report.first_call_ms) == (25, 15, 80)
    found = (stats.p50_ms, stats.p90_ms, stats.p95_ms, stats.p99_ms)
    assert found == pytest.approx(tuple(np.percentile(counted, [50, 90, 95, 99])), rel=1e-5)
    assert (stats.mean_ms, stats.std_ms) == pytest.approx((counted.mean(), counted.std()), rel=1e-5)
    assert (stats.min_ms, stats.max_ms) == pytest.approx((counted.min(), counted.max()), rel=1e-5)
    assert stats.images_per_second == pytest.approx(4 / counted.mean() * 1000, rel=1e-5)
    assert stats.variation_percent == pytest.approx(100 * counted.std() / counted.mean(), rel=1e-4)
    assert not stats.steady
    assert report.boundaries["engine"].p50_ms == pytest.approx(3.0)
    assert report.boundaries["engine"].steady
    assert report.cores == 0.5
    assert (report.batch, report.height, report.width, report.input) == (4, 10, 12, "random")


def test_runtimes_take_turns_forwards_and_backwards(clock: Clock) -> None:
    pair = [clock.timed(FakeRuntime(), name, repeat(2.0)) for name in "ab"]
    measure_interleaved(pair, runs=10)
    turns = [clock.calls[start : start + 6] for start in range(32, len(clock.calls), 6)]
    assert turns == [["a"] * 6, ["b"] * 6, ["b"] * 6, ["a"] * 6]


def test_a_machine_that_slows_down_leaves_the_ratio_alone(clock: Clock) -> None:
    """Both take longer and longer; measured one after the other, the second would look far worse than it is."""

    def slowing(base_ms: float) -> Iterator[float]:
        while True:
            yield base_ms * (1 + clock.now_ns / 1e9)

    pair = [clock.timed(FakeRuntime(), name, slowing(ms)) for name, ms in (("a", 2.0), ("b", 4.0))]
    first, second = measure_interleaved(pair, runs=200, warmup_seconds=0.1)
    assert first.stats.p90_ms > 3 * first.stats.min_ms
    assert second.stats.p50_ms / first.stats.p50_ms == pytest.approx(2.0, rel=0.05)


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"engine_ns": 7.0, "copies_ns": 6.0}, "copies took 6.000 ms and a part of it 7.000 ms"),
        ({"copies_ns": 11.0}, "arrays took 10.000 ms and a part of it 11.000 ms"),
    ],
)
def test_every_boundary_holds_the_one_before_or_nothing_is_reported(clock: Clock, parts, fault: str) -> None:
    with pytest.raises(ProtosegError, match=f"fake: {fault}: the clocks of device and host disagree"):
        measure_latency(clock.timed(FakeRuntime(), "a", repeat(10.0), **parts), runs=5)


def test_clocks_of_different_resolution_are_brought_in_order(clock: Clock) -> None:
    report = measure_latency(clock.timed(FakeRuntime(), "a", repeat(10.0), engine_ns=10.001, copies_ns=10.0), runs=5)
    found = [stats.p50_ms for stats in report.boundaries.values()]
    assert found == sorted(found)


def test_files_are_read_again_for_every_call(clock: Clock) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)

    def read() -> np.ndarray:
        clock.now_ns += 30_000_000
        return images

    report = measure_latency(clock.timed(FakeRuntime(), "a", repeat(10.0)), runs=5, images=images, read=read)
    assert report.boundaries["file"].p50_ms == pytest.approx(40.0)
    assert report.stats.p50_ms == pytest.approx(10.0)
    assert report.diagnosis.bound == "pre/post"
    assert "75 % of the time from a file" in report.diagnosis.text


def test_a_request_has_no_parts_that_the_client_sees(clock: Clock) -> None:
    runtime = clock.timed(FakeRuntime(kind="server"), "a", repeat(10.0), engine_ns=None, copies_ns=None)
    report = measure_latency(runtime, runs=5)
    assert (report.boundary, list(report.boundaries)) == ("request", ["request"])
    assert report.to_dict()["boundary"] == "request"


def test_launching_and_opening_are_told_apart(clock: Clock) -> None:
    runtime = clock.timed(FakeRuntime(), "a", repeat(10.0), engine_ns=8.0, launch_ns=7.9)
    (report,) = measure_interleaved([runtime], runs=5, openings=[Opening(load_ms=120.0, memory_bytes=2**40)])
    assert (report.launch_p50_ms, report.load_ms) == (pytest.approx(7.9), 120)
    assert report.host_memory_mib >= 2**20
    assert report.diagnosis.bound == "launch"
    assert set(report.boundaries) == {"engine", "copies", "arrays"}


def test_warm_up_lasts_until_the_latency_stands_still(clock: Clock) -> None:
    falling = chain((100.0 / (1 + call) for call in range(31)), repeat(2.0))
    report = measure_latency(clock.timed(FakeRuntime(), "a", falling), runs=5)
    assert report.stats.warmup_runs == 30 + 3 * 5
    assert report.stats.max_ms == pytest.approx(2.0)


def test_warm_up_that_never_settles_ends_and_is_flagged(clock: Clock) -> None:
    restless = (float(call % 50 + 1) for call in range(100_000))
    report = measure_latency(clock.timed(FakeRuntime(), "a", restless), runs=5, warmup_seconds=3.0)
    assert "the latency did not stabilise in warm-up" in report.stats.doubts


def test_without_a_number_of_runs_the_time_decides(clock: Clock) -> None:
    slow = measure_latency(clock.timed(FakeRuntime(), "a", repeat(1e3)), seconds=2.0, warmup_seconds=1.0)
    assert slow.stats.runs == 20
    fast = measure_latency(clock.timed(FakeRuntime(), "a", repeat(1.0)), seconds=2.0)
    assert 1600 < fast.stats.runs <= 2000


def test_the_garbage_collector_is_off_only_meanwhile() -> None:
    seen: list[bool] = []
    runtime = FakeRuntime(lambda images: seen.append(gc.isenabled()))
    measure_latency(runtime, size=(4, 4), runs=5)
    assert gc.isenabled()
    assert not any(seen[-6:])
    assert any(seen[:-6])


def test_real_time_is_measured_in_milliseconds() -> None:
    import time

    report = measure_latency(FakeRuntime(lambda images: time.sleep(0.004)), size=(4, 4), runs=10, warmup_seconds=0.1)
    assert 4.0 <= report.boundaries["engine"].min_ms < 40.0
    assert report.stats.images_per_second <= 250.0


def test_the_document_is_plain_json_with_units(clock: Clock) -> None:
    report = measure_latency(clock.timed(FakeRuntime(), "a", repeat(2.0)), runs=10, size=(6, 8))
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["boundary"] == "arrays"
    assert document["latency_p50_ms"] == document["boundaries"]["arrays"]["latency_p50_ms"] == pytest.approx(2.0)
    assert document["boundaries"]["engine"]["latency_p50_ms"] == pytest.approx(1.0)
    assert document["images_per_second"] == pytest.approx(500.0)
    assert (document["height"], document["width"], document["threads"]) == (6, 8, 1)
    assert document["process_peak_memory_mib"] > 10


def test_a_fixed_size_is_the_default_and_the_only_one(clock: Clock) -> None:
    runtime = clock.timed(FakeRuntime(fixed_size=(32, 48)), "a", repeat(1.0))
    report = measure_latency(runtime, runs=5)
    assert (report.height, report.width) == (32, 48)
    with pytest.raises(UsageError, match="takes images of 32x48 only, not 64x64"):
        measure_latency(runtime, size=(64, 64))


def test_given_images_are_the_ones_measured_with() -> None:
    runtime = FakeRuntime()
    images = np.random.default_rng(0).integers(0, 4, (2, 5, 7, 3), dtype=np.uint8)
    report = measure_latency(runtime, images=images, batch=9, size=(1, 1), runs=5, warmup_seconds=0.1)
    assert set(runtime.shapes) == {(2, 5, 7, 3)}
    assert (report.batch, report.height, report.width, report.input) == (2, 5, 7, "images")


def test_a_batch_is_read_resized_and_repeated(tmp_path: Path) -> None:
    colors = [(10, 20, 30), (200, 100, 0)]
    for name, size, color in zip("ab", [(9, 6), (20, 30)], colors, strict=True):
        Image.new("RGB", size, color).save(tmp_path / f"{name}.png")
    batch = ImageBatch(tmp_path, 3, ImageReading()).read()
    assert batch.shape == (3, 6, 9, 3)
    assert [tuple(image[2, 2]) for image in batch] == [colors[0], colors[1], colors[0]]
    assert ImageBatch(tmp_path, 1, ImageReading(), (4, 5)).read().shape == (1, 4, 5, 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        ImageBatch(tmp_path / "empty", 1, ImageReading())
    with pytest.raises(UsageError, match="no such folder"):
        ImageBatch(tmp_path / "nowhere", 1, ImageReading())


@pytest.mark.parametrize(("batch", "side"), [(1, 99_999_999), (10**30, 16), (10**12, 2), (10**400, 1)])
def test_a_batch_larger_than_the_memory_is_refused_before_it_is_made(tmp_path: Path, batch: int, side: int) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="GiB"):
        measure_interleaved([FakeRuntime(lambda images: images[..., 0])], batch=batch, size=(side, side), runs=1)
    with pytest.raises(UsageError, match="GiB"):
        ImageBatch(tmp_path, batch, ImageReading(), (side, side))


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.logical_cores == psutil.cpu_count()
    assert 1 <= machine.usable_cores <= machine.logical_cores
    assert {"torch", "numpy"} <= set(machine.libraries)
    json.dumps(machine.to_dict())


def test_peak_memory_is_in_mebibytes_and_outlives_what_was_freed() -> None:
    block = np.ones(2**26, dtype=np.uint8)  # 64 MiB, touched
    resident = psutil.Process().memory_info().rss / 2**20
    assert block[-1] == 1
    del block
    assert resident - 1 <= resident_peak_bytes() / 2**20 <= psutil.virtual_memory().total / 2**20


def test_peak_memory_of_a_report_is_not_that_of_the_program_that_asked_for_it() -> None:
    block = np.ones(900 * 2**20, dtype=np.uint8)
    code = (
        "from protoseg_deploy.benchmarking.latency import measure_interleaved\n"
        "from tests.fake_runtime import FakeRuntime\n"
        "report = measure_interleaved([FakeRuntime()], size=(4, 4), runs=1, warmup_seconds=0)[0]\n"
        "print(report.process_peak_memory_mib)"
    )
    measured = float(subprocess.check_output([sys.executable, "-c", code]))
    assert 10 < measured < block.nbytes / 2**20
