"""Energy of calls: the counter of a source, and the integral of its power, over calls that follow each other."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from protoseg_deploy.benchmarking.energy.source import DeviceState, EnergySource

_SAMPLE_S = 0.02
_DISAGREEMENT = 0.05
"""Between counter and integral, above which one of the two is wrong."""
_CLOCK_SPREAD = 0.1
"""Of the compute clock within one measurement, above which it was not one speed that was measured."""


@dataclass(frozen=True)
class EnergyFigures:
    """What calls in a row have cost."""

    joules_per_image: float
    """Of everything that the source covers."""
    joules_per_image_net: float
    """Without what the source takes when nothing runs."""
    mean_watts: float
    idle_watts: float
    source: str
    scope: str
    counter_joules: float | None
    integral_joules: float | None
    seconds: float
    images: int
    clock_mhz: tuple[float | None, float | None, float | None]
    """Of the compute units before, in the middle and after."""
    memory_clock_mhz: tuple[float | None, float | None, float | None]
    temperature_c: tuple[float | None, float | None, float | None]
    slowed_by: tuple[str, ...]
    warning: str = ""
    """What speaks against the figures; empty: nothing does."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys."""
        return asdict(self)


@dataclass
class Seen:
    """What a source told while something ran."""

    states: list[DeviceState] = field(default_factory=list)
    watts: list[tuple[float, float]] = field(default_factory=list)
    """Time in seconds and power."""

    @property
    def slowed_by(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(reason for state in self.states for reason in state.slowed_by))

    def doubts(self) -> list[str]:
        """Why latencies that were measured meanwhile are not those of a cool device at a fixed clock."""
        found = [f"the device was slowed down by {', '.join(self.slowed_by)}"] if self.slowed_by else []
        clocks = [state.clock_mhz for state in self.states if state.clock_mhz]
        if clocks and max(clocks) > (1 + _CLOCK_SPREAD) * min(clocks):
            found.append(f"its clock went from {min(clocks):.0f} to {max(clocks):.0f} MHz")
        return found


@contextmanager
def watched(source: EnergySource | None, interval_s: float = _SAMPLE_S) -> Iterator[Seen]:
    """Ask a source again and again while the block runs; nothing is seen where there is none."""
    seen, done = Seen(), threading.Event()
    if source is None:
        yield seen
        return

    def watch() -> None:
        while True:
            now, power = time.perf_counter(), source.watts()
            if power is not None:
                seen.watts.append((now, power))
            seen.states.append(source.state())
            if done.wait(interval_s):
                return

    thread = threading.Thread(target=watch, name="energy", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def idle_watts(source: EnergySource, seconds: float = 2.0) -> float:
    """Mean power while this process does nothing."""
    begin, before = time.perf_counter(), source.joules()
    with watched(source) as seen:
        time.sleep(seconds)
    after, taken = source.joules(), time.perf_counter() - begin
    if before is not None and after is not None:
        return (after - before) / taken
    return statistics.fmean(power for _, power in seen.watts)


def measure_energy(
    call: Callable[[], object], images: int, source: EnergySource, idle: float, seconds: float = 3.0
) -> EnergyFigures:
    """Energy of a call that is repeated.

    Args:
        call: waits until its work is done.
        images: that one call computes.
        source: to ask.
        idle: see `idle_watts`.
        seconds: the least time. Counters of GPUs change every 20 to 100 ms.
    """
    calls = 0
    first = source.state()
    with watched(source) as seen:
        begin, before = time.perf_counter(), source.joules()
        while time.perf_counter() < begin + seconds or not calls:
            call()
            calls += 1
        after, end = source.joules(), time.perf_counter()
    counter = after - before if before is not None and after is not None else None
    integral = integrate(seen.watts, begin, end)
    joules = counter if counter is not None else integral
    if joules is None:
        raise RuntimeError(f"{source.name} tells neither energy nor power")  # no source is opened that does not
    states = (first, seen.states[len(seen.states) // 2], source.state())
    taken, computed = end - begin, calls * images
    return EnergyFigures(
        joules_per_image=joules / computed,
        joules_per_image_net=max(0.0, joules - idle * taken) / computed,
        mean_watts=joules / taken,
        idle_watts=idle,
        source=source.name,
        scope=source.scope,
        counter_joules=counter,
        integral_joules=integral,
        seconds=taken,
        images=computed,
        clock_mhz=_three([state.clock_mhz for state in states]),
        memory_clock_mhz=_three([state.memory_clock_mhz for state in states]),
        temperature_c=_three([state.temperature_c for state in states]),
        slowed_by=seen.slowed_by,
        warning=disagreement(counter, integral),
    )


def integrate(watts: list[tuple[float, float]], begin: float, end: float) -> float | None:
    """Joules from samples of time (s) and power (W), by trapezes from `begin` to `end`; None without samples.

    The first and the last value hold beyond their time.
    """
    if not watts:
        return None
    inside = [(at, power) for at, power in watts if begin < at < end]
    first = next((power for at, power in reversed(watts) if at <= begin), watts[0][1])
    last = next((power for at, power in watts if at >= end), watts[-1][1])
    points = [(begin, first), *inside, (end, last)]
    return sum((later - earlier) * (one + other) / 2 for (earlier, one), (later, other) in itertools.pairwise(points))


def disagreement(counter: float | None, integral: float | None) -> str:
    """Says that two figures in joules are too far apart; empty where they are not, or one is missing."""
    if counter is None or integral is None or abs(counter - integral) <= _DISAGREEMENT * max(counter, integral):
        return ""
    return (
        f"the energy counter says {counter:.2f} J and the integral of the power {integral:.2f} J, "
        f"{100 * abs(counter - integral) / max(counter, integral):.0f} % apart"
    )


def _three(values: list[float | None]) -> tuple[float | None, float | None, float | None]:
    before, during, after = values
    return before, during, after
