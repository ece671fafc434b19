"""Several pieces of work measured alternately, so that ratios hold on a noisy machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """Milliseconds of one piece of work, one figure a round."""

    rounds_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)

    @property
    def spread_percent(self) -> float:
        """From the lower to the upper quartile, in percent of the median."""
        if len(self.rounds_ms) < 2:
            return 0.0
        lower, _, upper = statistics.quantiles(self.rounds_ms, n=4, method="inclusive")
        return 100 * (upper - lower) / self.median_ms

    def over(self, other: "Times") -> float:
        """The median of the ratios within rounds: what slows a whole round down leaves it as it is."""
        return statistics.median(mine / its for mine, its in zip(self.rounds_ms, other.rounds_ms, strict=True))


def measure_in_turns(
    work: Mapping[str, Callable[[], object]], rounds: int, calls: int, device: torch.device
) -> dict[str, Times]:
    """Time each piece of work in every round, after one round that does not count.

    Args:
        work: by name.
        rounds: that count.
        calls: of a piece of work in a row; a round's figure is their mean. The host waits for a GPU only before the
            first and after the last of them.
        device: where the work computes.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, call in work.items():
            elapsed = milliseconds(lambda call=call: [call() for _ in range(calls)], device) / calls  # type: ignore[misc]
            if number:
                taken[name].append(elapsed)
    return {name: Times(tuple(values)) for name, values in taken.items()}


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """From before a piece of work until the device has finished it."""
    wait_for(device)
    started = time.perf_counter()
    work()
    wait_for(device)
    return 1000 * (time.perf_counter() - started)


def medians(samples: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each name that occurs; where it is missing it counts as 0."""
    names = {name: None for sample in samples for name in sample}
    return {name: statistics.median(sample.get(name, 0.0) for sample in samples) for name in names}


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
