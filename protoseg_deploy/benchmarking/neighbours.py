"""How much of the processor other programs took while something was measured."""

import os
import time
from dataclasses import dataclass

LIMIT_CORES = 0.2
"""Above that, a latency is not that of a quiet machine."""
_SHORTEST_S = 0.5


@dataclass(frozen=True)
class _Reading:
    at_s: float
    busy_s: float
    own_s: float


class NeighbourLoad:
    """Compares the time that all processors were busy with that of this process, from its construction on."""

    def __init__(self) -> None:
        self._begun = _read()

    def cores(self) -> float | None:
        """Cores that others kept busy on average; None: too short a time to tell."""
        begun, now = self._begun, _read()
        seconds = now.at_s - begun.at_s
        if seconds < _SHORTEST_S:
            return None
        others = (now.busy_s - begun.busy_s) - (now.own_s - begun.own_s)
        return max(0.0, others / seconds)


def _read() -> _Reading:
    import psutil

    times, own = psutil.cpu_times(), os.times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)  # counted as user time, too
    total = sum(times) - guests
    return _Reading(time.perf_counter(), total - idle, own.user + own.system + own.children_user + own.children_system)
