"""Latency of runtimes between two declared boundaries.

``session``
    The computation alone (`Runtime.bind`): inputs lie on the device already, outputs stay there, and the call waits for
    the end. The graph still holds normalisation, resizing, upsampling and argmax, because the artefact does. This is
    what an inference engine's own benchmark tool measures.
``array``
    `Runtime.predict`: from a uint8 array in main memory to a uint8 array in main memory. On a GPU that adds the two
    copies over the bus, on a CPU the hand-over to the library. This is what a program that calls the runtime waits for.

Neither includes reading and decoding files, or a network connection.

A call is timed by ``time.perf_counter_ns`` around it, with Python's garbage collector off. Both boundaries of all
runtimes are measured alternately, a few calls each, forwards and backwards (A B, B A, A B, …), so that a machine that
gets slower or busier slows all of them alike: ratios from one such measurement hold where two separate ones would not.
The first call of each turn is not counted; it pays for caches and threads the one before left behind.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from protoseg_deploy.benchmarking.inputs import require_memory
from protoseg_deploy.benchmarking.machine import Machine, describe_machine, gpu_memory_used_mib
from protoseg_deploy.benchmarking.memory import resident_peak_bytes
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array

BOUNDARIES = ("session", "array")

UNSTABLE_ABOVE_PERCENT = 10.0
"""Coefficient of variation from which a figure is flagged as unstable."""

_TURN = 5
"""Timed iterations per turn."""
_FEWEST_RUNS = 20
_WARMUP_WINDOW = 5
_WARMUP_SPREAD = 0.05


@dataclass(frozen=True)
class LatencyStats:
    """Distribution of the latency of one call with the whole batch, in milliseconds."""

    runs: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    variation_percent: float
    """Standard deviation over mean."""
    images_per_second: float
    """Batch over mean latency: throughput of sequential calls."""
    warmup_runs: int
    settled: bool
    """Whether the warm-up ended because the latency was stable, not because its time was up."""

    @property
    def unstable(self) -> bool:
        return not self.settled or self.variation_percent > UNSTABLE_ABOVE_PERCENT

    def to_dict(self) -> dict[str, Any]:
        return {
            "latency_p50_ms": self.p50_ms,
            "latency_p90_ms": self.p90_ms,
            "latency_p99_ms": self.p99_ms,
            "latency_mean_ms": self.mean_ms,
            "latency_min_ms": self.min_ms,
            "latency_max_ms": self.max_ms,
            "latency_std_ms": self.std_ms,
            "variation_percent": self.variation_percent,
            "images_per_second": self.images_per_second,
            "runs": self.runs,
            "warmup_runs": self.warmup_runs,
            "settled": self.settled,
            "unstable": self.unstable,
        }


@dataclass(frozen=True)
class LatencyReport:
    """What one runtime took, and under which conditions."""

    info: RuntimeInfo
    batch: int
    height: int
    width: int
    input: str
    """``images`` or ``random`` (uniform noise)."""
    session: LatencyStats
    array: LatencyStats
    process_peak_memory_mib: float
    """The most that was resident since this process was started: libraries and every runtime in it included."""
    gpu_peak_memory_mib: float | None
    """Peak of PyTorch's allocations on the GPU; None on a CPU and for other libraries."""
    gpu_memory_used_mib: float | None
    """In use on the GPU after the runs, by everything on it; None on a CPU."""
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys. The figures at the top are those of the ``array`` boundary."""
        return {
            "runtime": str(self.info.path),
            "kind": self.info.kind,
            "precision": self.info.precision,
            "device": self.info.device,
            "backend": self.info.backend,
            "threads": self.info.threads,
            "parameters": self.info.parameters,
            "file_bytes": self.info.file_bytes,
            "batch": self.batch,
            "height": self.height,
            "width": self.width,
            "input": self.input,
            "boundary": "array",
            **self.array.to_dict(),
            "boundaries": {"session": self.session.to_dict(), "array": self.array.to_dict()},
            "process_peak_memory_mib": self.process_peak_memory_mib,
            "gpu_peak_memory_mib": self.gpu_peak_memory_mib,
            "gpu_memory_used_mib": self.gpu_memory_used_mib,
            "machine": self.machine.to_dict(),
        }


@dataclass
class _Series:
    """One runtime at one boundary, while it is being measured."""

    call: Callable[[], object]
    warmup_runs: int = 0
    settled: bool = False
    nanoseconds: list[int] = field(default_factory=list)

    def warm_up(self, seconds: float) -> None:
        """Call until the medians of the last three windows of calls lie within 5 %, or the time is up."""
        medians: list[float] = []
        end = time.perf_counter() + seconds
        while not self.settled and (time.perf_counter() < end or not medians):
            medians.append(statistics.median(_timed(self.call) for _ in range(_WARMUP_WINDOW)))
            self.warmup_runs += _WARMUP_WINDOW
            last = medians[-3:]
            self.settled = len(last) == 3 and max(last) <= min(last) * (1 + _WARMUP_SPREAD)

    def take_turn(self) -> None:
        self.call()
        self.nanoseconds.extend(_timed(self.call) for _ in range(_TURN))

    def stats(self, batch: int, runs: int | None) -> LatencyStats:
        taken = np.array(self.nanoseconds[:runs], dtype=np.float64) / 1e6
        p50, p90, p99 = np.percentile(taken, [50, 90, 99])
        mean, std = float(taken.mean()), float(taken.std())
        return LatencyStats(
            runs=len(taken),
            p50_ms=float(p50),
            p90_ms=float(p90),
            p99_ms=float(p99),
            mean_ms=mean,
            min_ms=float(taken.min()),
            max_ms=float(taken.max()),
            std_ms=std,
            variation_percent=100 * std / mean,
            images_per_second=1000 * batch / mean,
            warmup_runs=self.warmup_runs,
            settled=self.settled,
        )


def measure_interleaved(
    runtimes: Sequence[Runtime],
    *,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    runs: int | None = None,
    seconds: float = 5.0,
    warmup_seconds: float = 5.0,
    images: UInt8Array | None = None,
) -> list[LatencyReport]:
    """Latency of one or more runtimes on the same images, measured alternately.

    Args:
        runtimes: what to measure.
        batch: images per call.
        size: height and width of random images; 512x512, or the fixed input size of a runtime, when absent.
        runs: timed iterations of each runtime at each boundary; as many as fit into `seconds` (at least 20) when
            absent.
        seconds: time for each runtime at each boundary.
        warmup_seconds: the longest a warm-up may take, for each runtime at each boundary.
        images: ``[B,H,W,3]`` uint8 RGB to use instead of random ones; `batch` and `size` are then theirs.

    Raises:
        UsageError: a runtime has another fixed input size, or there is no memory for such a batch.
    """
    kind = "random" if images is None else "images"
    if images is None:
        fixed = next((info.fixed_size for info in (runtime.info for runtime in runtimes) if info.fixed_size), None)
        height, width = size or fixed or (512, 512)
        require_memory(batch, height, width)
        images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
    batch, height, width = images.shape[:3]
    for runtime in runtimes:
        if runtime.info.fixed_size not in (None, (height, width)):
            raise UsageError(
                f"{runtime.info.path} takes images of {_size(runtime.info.fixed_size)} only, not {height}x{width}",
                f"Measure with --size {_size(runtime.info.fixed_size)}.",
            )
    on_gpu = any(runtime.info.device == "cuda" for runtime in runtimes)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    machine = describe_machine()
    series = {boundary: [_Series(_call(runtime, images, boundary)) for runtime in runtimes] for boundary in BOUNDARIES}
    _measure([one for boundary in BOUNDARIES for one in series[boundary]], runs, seconds, warmup_seconds)
    return [
        LatencyReport(
            info=runtime.info,
            batch=batch,
            height=height,
            width=width,
            input=kind,
            session=series["session"][number].stats(batch, runs),
            array=series["array"][number].stats(batch, runs),
            process_peak_memory_mib=round(resident_peak_bytes() / 2**20, 1),
            gpu_peak_memory_mib=_torch_peak_mib(runtime.info),
            gpu_memory_used_mib=round(gpu_memory_used_mib(), 1) if runtime.info.device == "cuda" else None,
            machine=machine,
        )
        for number, runtime in enumerate(runtimes)
    ]


def _call(runtime: Runtime, images: UInt8Array, boundary: str) -> Callable[[], object]:
    return runtime.bind(images) if boundary == "session" else lambda: runtime.predict(images)


def _measure(series: list[_Series], runs: int | None, seconds: float, warmup_seconds: float) -> None:
    for one in series:
        one.warm_up(warmup_seconds)
    order = list(series)
    wanted = runs or _FEWEST_RUNS
    end = time.perf_counter() + seconds * len(series)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        while len(series[0].nanoseconds) < wanted or (runs is None and time.perf_counter() < end):
            for one in order:
                one.take_turn()
            order.reverse()
    finally:
        if collecting:
            gc.enable()


def _timed(call: Callable[[], object]) -> int:
    begin = time.perf_counter_ns()
    call()
    return time.perf_counter_ns() - begin


def _torch_peak_mib(info: RuntimeInfo) -> float | None:
    if info.device == "cpu" or info.kind != "pytorch":
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def _size(size: tuple[int, int] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "any size"
