"""Energy of calls: the counter of a source, and the integral of its power, over calls that follow each other."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from protoseg_deploy.benchmarking.energy.source import DeviceState, EnergySource

_SAMPLE_S = 0.02
_DISAGREEMENT = 0.05
"""Between counter and integral, or below idle power, above which one of the two is wrong."""
_CLOCK_SPREAD = 0.1
"""Of the compute clock within one measurement, above which it was not one speed that was measured."""
_TAIL = 0.1
"""Share of the lowest and of the highest clocks that do not count: a clock that rises as the work begins."""
_UNSEEN = 0.25
"""Share of a measurement without samples, above which they do not tell its energy."""


@dataclass(frozen=True)
class EnergyFigures:
    """What calls in a row have cost."""

    joules_per_image: float
    """Of everything that the source covers; by the counter where there is one."""
    joules_per_image_net: float
    """Without what the source takes when nothing runs."""
    mean_watts: float
    idle_watts: float
    source: str
    scope: str
    power_mode: str
    power_averaged_s: float | None
    """See `EnergySource.averaged_s`."""
    counter_joules: float | None
    integral_joules: float | None
    seconds: float
    images: int
    clock_mhz: tuple[float | None, float | None, float | None]
    """Of the compute units before, in the middle and after."""
    memory_clock_mhz: tuple[float | None, float | None, float | None]
    temperature_c: tuple[float | None, float | None, float | None]
    clock_reasons: tuple[tuple[str, ...] | None, tuple[str, ...] | None, tuple[str, ...] | None]
    """What determined the clock before, at any time meanwhile and after; None: the device does not tell."""
    slowed_by: tuple[str, ...]
    """Heat and power limits that did at any time."""
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
    joules: list[tuple[float, float]] = field(default_factory=list)
    """Time in seconds and the counter."""

    @property
    def slowed_by(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(reason for state in self.states for reason in state.slowed_by))

    def doubts(self) -> list[str]:
        """Why latencies that were measured meanwhile are not those of a cool device at a fixed clock."""
        found = [f"the device was slowed down by {', '.join(self.slowed_by)}"] if self.slowed_by else []
        clocks = sorted(state.clock_mhz for state in self.states if state.clock_mhz and not state.idle)
        tail = int(_TAIL * len(clocks))
        low, high = (clocks[tail], clocks[-1 - tail]) if clocks else (0, 0)
        if high > (1 + _CLOCK_SPREAD) * low:
            found.append(f"its clock went from {low:.0f} to {high:.0f} MHz")
        return found


@contextmanager
def watched(source: EnergySource | None, interval_s: float = _SAMPLE_S, *, power: bool = True) -> Iterator[Seen]:
    """Ask a source again and again while the block runs; nothing is seen where there is none.

    Args:
        source: nobody else may ask it meanwhile.
        interval_s: between two questions.
        power: ask for power and energy as well, which takes some GPUs milliseconds.
    """
    seen, done = Seen(), threading.Event()
    if source is None:
        yield seen
        return

    def watch() -> None:
        while True:
            if power:
                _append(seen.joules, source.joules())
                _append(seen.watts, source.watts())
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


def idle_watts(source: EnergySource, seconds: float = 2.0) -> float | None:
    """Mean power while this process does nothing; None: the source tells neither energy nor power."""
    time.sleep(source.averaged_s or 0)
    begin = time.perf_counter()
    with watched(source) as seen:
        time.sleep(seconds)
    end = time.perf_counter()
    counted = counted_watts(seen.joules, begin, end)
    return counted if counted is not None else integrated_watts(seen.watts, begin, end)


def measure_energy(
    call: Callable[[], object], images: int, source: EnergySource, idle: float, seconds: float = 3.0
) -> EnergyFigures | None:
    """Energy of a call that is repeated; None: the source tells neither energy nor power.

    Args:
        call: waits until its work is done.
        images: that one call computes.
        source: to ask.
        idle: see `idle_watts`.
        seconds: the least time, after the time over which the source averages its power.
    """
    first = source.state()
    _repeat(call, source.averaged_s or 0)
    with watched(source) as seen:
        begin = time.perf_counter()
        calls = _repeat(call, seconds)
        end = time.perf_counter()
    last = source.state()
    counted = counted_watts(seen.joules, begin, end)
    integrated = integrated_watts(seen.watts, begin, end)
    watts = counted if counted is not None else integrated
    if watts is None:
        return None
    taken, computed = end - begin, calls * images
    states = (first, seen.states[len(seen.states) // 2], last)
    counter, integral = _times(counted, taken), _times(integrated, taken)
    slowed = Seen([first, *seen.states, last]).slowed_by
    less = watts < (1 - _DISAGREEMENT) * idle
    warnings = (
        disagreement(counter, integral),
        f"the device was slowed down by {', '.join(slowed)}" if slowed else "",
        f"it took less than the {idle:.1f} W of an idle device: that was busy" if less else "",
    )
    return EnergyFigures(
        joules_per_image=watts * taken / computed,
        joules_per_image_net=(watts - idle) * taken / computed,
        mean_watts=watts,
        idle_watts=idle,
        source=source.name,
        scope=source.scope,
        power_mode=source.power_mode,
        power_averaged_s=source.averaged_s,
        counter_joules=counter,
        integral_joules=integral,
        seconds=taken,
        images=computed,
        clock_mhz=_three([state.clock_mhz for state in states]),
        memory_clock_mhz=_three([state.memory_clock_mhz for state in states]),
        temperature_c=_three([state.temperature_c for state in states]),
        clock_reasons=(first.clock_reasons, _reasons(seen.states), last.clock_reasons),
        slowed_by=slowed,
        warning="; ".join(warning for warning in warnings if warning),
    )


def counted_watts(joules: Sequence[tuple[float, float]], begin: float, end: float) -> float | None:
    """Mean power by samples of time (s) and a counter (J), between its first and its last change in a span.

    Counters of GPUs change every 20 to 100 ms, so that their values at `begin` and `end` are those of some time before.

    Returns:
        None: the counter does not change, or too seldom, or it began anew.
    """
    changes = [
        later for earlier, later in itertools.pairwise(joules) if later[1] != earlier[1] and begin <= later[0] <= end
    ]
    if not changes:
        return None
    (first, low), (last, high) = changes[0], changes[-1]
    return None if last - first < (1 - 2 * _UNSEEN) * (end - begin) or high < low else (high - low) / (last - first)


def integrated_watts(watts: Sequence[tuple[float, float]], begin: float, end: float) -> float | None:
    """Mean power from samples of time (s) and power (W), by trapezes from `begin` to `end`.

    The first and the last value hold beyond their time.

    Returns:
        None: the samples leave out too much of the time.
    """
    if not watts or watts[0][0] > begin + _UNSEEN * (end - begin) or watts[-1][0] < end - _UNSEEN * (end - begin):
        return None
    inside = [(at, power) for at, power in watts if begin < at < end]
    first = next((power for at, power in reversed(watts) if at <= begin), watts[0][1])
    last = next((power for at, power in watts if at >= end), watts[-1][1])
    points = [(begin, first), *inside, (end, last)]
    joules = sum((later - earlier) * (one + other) / 2 for (earlier, one), (later, other) in itertools.pairwise(points))
    return joules / (end - begin)


def disagreement(counter: float | None, integral: float | None) -> str:
    """Says that two figures in joules are too far apart; empty where they are not, or one is missing."""
    if counter is None or integral is None or abs(counter - integral) <= _DISAGREEMENT * max(counter, integral):
        return ""
    return (
        f"the energy counter says {counter:.2f} J and the integral of the power {integral:.2f} J, "
        f"{100 * abs(counter - integral) / max(counter, integral):.0f} % apart"
    )


def _append(samples: list[tuple[float, float]], value: float | None) -> None:
    if value is not None:
        samples.append((time.perf_counter(), value))


def _repeat(call: Callable[[], object], seconds: float) -> int:
    """Call until the time is over; returns how often."""
    end, calls = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        call()
        calls += 1
    return calls


def _times(watts: float | None, seconds: float) -> float | None:
    return None if watts is None else watts * seconds


def _reasons(states: Sequence[DeviceState]) -> tuple[str, ...] | None:
    """At any time; None where none of them tells."""
    told = [state.clock_reasons for state in states if state.clock_reasons is not None]
    return tuple(dict.fromkeys(itertools.chain.from_iterable(told))) if told else None


def _three(values: list[float | None]) -> tuple[float | None, float | None, float | None]:
    before, during, after = values
    return before, during, after
