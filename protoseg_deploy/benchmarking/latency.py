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

from protoseg_deploy.benchmarking.distribution import FEWEST_RUNS, LatencyStats, latency_stats
from protoseg_deploy.benchmarking.inputs import require_memory
from protoseg_deploy.benchmarking.machine import Machine, describe_machine, gpu_memory_used_mib
from protoseg_deploy.benchmarking.memory import resident_peak_bytes
from protoseg_deploy.benchmarking.neighbours import LIMIT_CORES, NeighbourLoad
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array

BOUNDARIES = ("session", "array")

_TURN = 5
"""Timed iterations per turn."""
_SECONDS = 5.0
_WARMUP_WINDOW = 5
_WARMUP_SPREAD = 0.05


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
    neighbours_cores: float | None
    """Cores that other programs kept busy meanwhile; None: it took too little time to tell."""
    machine: Machine

    @property
    def steady(self) -> bool:
        """Whether nothing speaks against the figures of both boundaries."""
        return self.session.steady and self.array.steady

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
            "neighbours_cores": self.neighbours_cores,
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

    def stats(self, batch: int, doubts: Sequence[str]) -> LatencyStats:
        return latency_stats(
            [taken / 1e6 for taken in self.nanoseconds],
            batch=batch,
            warmup_runs=self.warmup_runs,
            settled=self.settled,
            doubts=doubts,
        )


def measure_interleaved(
    runtimes: Sequence[Runtime],
    *,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    warmup_seconds: float = 5.0,
    images: UInt8Array | None = None,
) -> list[LatencyReport]:
    """Latency of one or more runtimes on the same images, measured alternately.

    Args:
        runtimes: what to measure.
        batch: images per call.
        size: height and width of random images; 512x512, or the fixed input size of a runtime, when absent.
        runs: the fewest timed iterations of each runtime at each boundary; 20 when absent.
        seconds: the least time for each runtime at each boundary; when absent 5, or 0 where `runs` is given.
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
    seconds = (_SECONDS if runs is None else 0.0) if seconds is None else seconds
    neighbours = _measure(
        [one for boundary in BOUNDARIES for one in series[boundary]], runs or FEWEST_RUNS, seconds, warmup_seconds
    )
    asked = any(runtime.info.kind == "server" for runtime in runtimes)  # it may be another program of this machine
    disturbed = not asked and neighbours is not None and neighbours > LIMIT_CORES
    doubts = [f"other programs used {neighbours:.1f} cores meanwhile"] if disturbed else []
    return [
        LatencyReport(
            info=runtime.info,
            batch=batch,
            height=height,
            width=width,
            input=kind,
            session=series["session"][number].stats(batch, doubts),
            array=series["array"][number].stats(batch, doubts),
            process_peak_memory_mib=round(resident_peak_bytes() / 2**20, 1),
            gpu_peak_memory_mib=_torch_peak_mib(runtime.info),
            gpu_memory_used_mib=round(gpu_memory_used_mib(), 1) if runtime.info.device == "cuda" else None,
            neighbours_cores=neighbours,
            machine=machine,
        )
        for number, runtime in enumerate(runtimes)
    ]


def _call(runtime: Runtime, images: UInt8Array, boundary: str) -> Callable[[], object]:
    return runtime.bind(images) if boundary == "session" else lambda: runtime.predict(images)


def _measure(series: list[_Series], runs: int, seconds: float, warmup_seconds: float) -> float | None:
    """Returns the cores that other programs used meanwhile, see `NeighbourLoad`."""
    for one in series:
        one.warm_up(warmup_seconds)
    order = list(series)
    end = time.perf_counter() + seconds * len(series)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    load = NeighbourLoad()
    try:
        while len(series[0].nanoseconds) < runs or time.perf_counter() < end:
            for one in order:
                one.take_turn()
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return load.cores()


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
