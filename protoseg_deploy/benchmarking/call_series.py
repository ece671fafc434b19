"""Calls of runtimes, warmed up and timed in turns."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from protoseg_deploy.benchmarking.distribution import LatencyStats, latency_stats
from protoseg_deploy.benchmarking.neighbours import NeighbourLoad
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, TimedPrediction, UInt8Array

_TURN = 5
"""Timed iterations per turn."""
_WARMUP_WINDOW = 5
_WARMUP_SPREAD = 0.05
_CLOCKS_NS = 2000
"""By which the clocks of device and host may differ: CUDA events resolve half a microsecond."""


@dataclass
class CallSeries:
    """Calls of one runtime, on images in memory or from files, while they are measured."""

    call: Callable[[], Mapping[str, int]]
    """Nanoseconds to the end of each boundary, the innermost first."""
    warmup_runs: int = 0
    settled: bool = False
    calls: list[Mapping[str, int]] = field(default_factory=list)
    wall_ns: int = 0
    """Of all turns, the calls that are not counted included."""
    processor_ns: int = 0
    """Likewise, of all threads of this process."""

    def warm_up(self, seconds: float) -> None:
        """Call until the medians of the last three windows of calls lie within 5 %, or the time is up."""
        medians: list[float] = []
        end = time.perf_counter() + seconds
        while not self.settled and (time.perf_counter() < end or not medians):
            medians.append(statistics.median(self._outermost() for _ in range(_WARMUP_WINDOW)))
            self.warmup_runs += _WARMUP_WINDOW
            last = medians[-3:]
            self.settled = len(last) == 3 and max(last) <= min(last) * (1 + _WARMUP_SPREAD)

    def take_turn(self) -> None:
        wall, processor = time.perf_counter_ns(), time.process_time_ns()
        self.call()
        self.calls.extend(self.call() for _ in range(_TURN))
        self.wall_ns += time.perf_counter_ns() - wall
        self.processor_ns += time.process_time_ns() - processor

    def median_ms(self, name: str) -> float | None:
        return statistics.median(call[name] for call in self.calls) / 1e6 if name in self.calls[0] else None

    def stats(self, name: str, batch: int, doubts: Sequence[str]) -> LatencyStats:
        return latency_stats(
            [call[name] / 1e6 for call in self.calls],
            batch=batch,
            warmup_runs=self.warmup_runs,
            settled=self.settled,
            doubts=doubts,
        )

    def _outermost(self) -> int:
        return list(self.call().values())[-1]


def measure_in_turns(series: list[CallSeries], runs: int, seconds: float, warmup_seconds: float) -> float | None:
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
        while len(series[0].calls) < runs or time.perf_counter() < end:
            for one in order:
                one.take_turn()
            order.reverse()
    finally:
        if collecting:
            gc.enable()
    return load.cores()


def calls_on_arrays(runtime: Runtime, images: UInt8Array) -> Callable[[], Mapping[str, int]]:
    outermost = "request" if runtime.info.kind == "server" else "arrays"
    return lambda: _spans(runtime.predict_timed(images), runtime.info, outermost)


def calls_on_files(runtime: Runtime, read: Callable[[], UInt8Array]) -> Callable[[], Mapping[str, int]]:
    def call() -> Mapping[str, int]:
        begin = time.perf_counter_ns()
        spans = calls_on_arrays(runtime, read())()
        return {**spans, "file": time.perf_counter_ns() - begin}

    return call


def _spans(timed: TimedPrediction, info: RuntimeInfo, outermost: str) -> Mapping[str, int]:
    """Raises ProtosegError where a span is longer than the one it lies in."""
    spans = {} if timed.launch_ns is None else {"launch": timed.launch_ns}
    inner = 0
    for name, span in (("engine", timed.engine_ns), ("copies", timed.copies_ns), (outermost, timed.arrays_ns)):
        if span is None:
            continue
        if span + _CLOCKS_NS < inner:
            raise ProtosegError(
                f"{info.path}: {name} took {span / 1e6:.3f} ms and a part of it {inner / 1e6:.3f} ms: the clocks of "
                "device and host disagree",
                "Measure again; where it happens again, no figure of this device is to be trusted.",
            )
        inner = spans[name] = max(span, inner)
    return spans
