"""Times inside one call of a runtime: the computation, and the computation with the copies around it.

A call is marked four times, in this order: the copies into the device begin, the computation begins, it ends, the
copies back have ended. Spans of one call lie within each other, so that ``engine <= copies <= arrays`` holds for
every call, hence for every quantile, and not only on average.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from protoseg_deploy.runtimes.base import TimedPrediction, UInt8Array

Mark = Callable[[], None]
_MARKS = 4


def no_mark() -> None:
    """For calls that nobody times."""


def timed_on_host(predict: Callable[[Mark], UInt8Array]) -> TimedPrediction:
    """One call of a library that returns when its work is done.

    Args:
        predict: computes class maps and marks its parts.
    """
    marks: list[int] = []
    begin = time.perf_counter_ns()
    class_map = predict(lambda: marks.append(time.perf_counter_ns()))
    end = time.perf_counter_ns()
    copying, computing, computed, copied = marks
    return TimedPrediction(
        class_map,
        arrays_ns=end - begin,
        copies_ns=copied - copying,
        engine_ns=computed - computing,
    )


def timed_on_gpu(predict: Callable[[Mark], UInt8Array], stream: torch.cuda.Stream) -> TimedPrediction:
    """One call that launches its work on a CUDA stream; its parts are timed by events on that stream.

    Args:
        predict: computes class maps, marks its parts, and returns when the class maps are in host memory.
        stream: the work is launched on.
    """
    events = iter([torch.cuda.Event(enable_timing=True) for _ in range(_MARKS)])  # type: ignore[no-untyped-call]
    passed: list[_Passed] = []

    def mark() -> None:
        event = next(events)
        event.record(stream)
        passed.append(_Passed(event, time.perf_counter_ns()))

    begin = time.perf_counter_ns()
    class_map = predict(mark)
    end = time.perf_counter_ns()
    stream.synchronize()
    copying, computing, computed, copied = passed
    return TimedPrediction(
        class_map,
        arrays_ns=end - begin,
        copies_ns=copying.until(copied),
        engine_ns=computing.until(computed),
        launch_ns=computed.at_ns - computing.at_ns,
    )


@dataclass(frozen=True)
class _Passed:
    event: torch.cuda.Event
    at_ns: int
    """On the clock of the host, which is ahead of the device."""

    def until(self, later: "_Passed") -> int:
        return round(float(self.event.elapsed_time(later.event)) * 1e6)
