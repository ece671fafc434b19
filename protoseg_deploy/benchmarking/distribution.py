"""The distribution of a latency, and whether it may be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIATION_LIMIT_PERCENT = 10.0
"""Coefficient of variation above which a latency is not steady."""
DRIFT_LIMIT_PERCENT = 5.0
"""Between the medians of the thirds of a measurement."""
FEWEST_RUNS = 20
_BLOCKS, _RESAMPLES = 50, 2000


@dataclass(frozen=True)
class LatencyStats:
    """Distribution of the latency of one call with the whole batch, in milliseconds."""

    runs: int
    p50_ms: float
    p50_low_ms: float
    """Lower end of the 95 % confidence interval of the median, see `median_interval`."""
    p50_high_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float
    variation_percent: float
    """Coefficient of variation: standard deviation over mean."""
    images_per_second: float
    """Batch over mean latency: throughput of sequential calls."""
    warmup_runs: int
    doubts: tuple[str, ...]
    """Why the figures may not be those of a quiet machine; none: they are steady."""

    @property
    def steady(self) -> bool:
        return not self.doubts

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys."""
        return {
            "latency_p50_ms": self.p50_ms,
            "latency_p50_low_ms": self.p50_low_ms,
            "latency_p50_high_ms": self.p50_high_ms,
            "latency_p90_ms": self.p90_ms,
            "latency_p95_ms": self.p95_ms,
            "latency_p99_ms": self.p99_ms,
            "latency_mean_ms": self.mean_ms,
            "latency_min_ms": self.min_ms,
            "latency_max_ms": self.max_ms,
            "latency_std_ms": self.std_ms,
            "variation_percent": self.variation_percent,
            "images_per_second": self.images_per_second,
            "runs": self.runs,
            "warmup_runs": self.warmup_runs,
            "steady": self.steady,
            "doubts": list(self.doubts),
        }


def latency_stats(
    milliseconds: Sequence[float], *, batch: int, warmup_runs: int, settled: bool, doubts: Sequence[str] = ()
) -> LatencyStats:
    """Summarise a series of calls.

    Args:
        milliseconds: of each call, in the order of the calls.
        batch: images of a call.
        warmup_runs: calls before them.
        settled: whether the warm-up ended because the latency was stable, not because its time was up.
        doubts: what else speaks against the figures.
    """
    taken = np.asarray(milliseconds, dtype=np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(taken, [50, 90, 95, 99]))
    low, high = median_interval(taken)
    mean, std = float(taken.mean()), float(taken.std())
    variation, drift = 100 * std / mean, _drift_percent(taken)
    found = list(doubts)
    if not settled:
        found.append("the latency did not stabilise in warm-up")
    if variation > VARIATION_LIMIT_PERCENT:
        found.append(f"the latency varies by {variation:.0f} %")
    if drift > DRIFT_LIMIT_PERCENT:
        found.append(f"it drifted by {drift:.0f} % during the measurement")
    if len(taken) < FEWEST_RUNS:
        found.append(f"{len(taken)} runs are few (at least {FEWEST_RUNS})")
    return LatencyStats(
        runs=len(taken),
        p50_ms=p50,
        p50_low_ms=low,
        p50_high_ms=high,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        mean_ms=mean,
        min_ms=float(taken.min()),
        max_ms=float(taken.max()),
        std_ms=std,
        variation_percent=variation,
        images_per_second=1000 * batch / mean,
        warmup_runs=warmup_runs,
        doubts=tuple(found),
    )


def median_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % confidence interval of a median, from a bootstrap over blocks of consecutive values.

    Calls that follow each other are alike, as what disturbs them lasts longer than one: an interval that takes them for
    independent is too narrow. Blocks keep them together.

    Args:
        values: ``[N]`` in the order in which they were measured.
    """
    blocks = np.array_split(values, min(_BLOCKS, len(values)))
    medians = np.array([np.median(block) for block in blocks])
    drawn = np.random.default_rng(0).integers(0, len(medians), (_RESAMPLES, len(medians)))
    low, high = np.percentile(np.median(medians[drawn], axis=1), [2.5, 97.5])
    middle = float(np.median(values))
    return min(float(low), middle), max(float(high), middle)


def _drift_percent(values: NDArray[np.float64]) -> float:
    if len(values) < FEWEST_RUNS:
        return 0.0
    thirds = [float(np.median(part)) for part in np.array_split(values, 3)]
    return 100 * (max(thirds) / min(thirds) - 1) if min(thirds) > 0 else 0.0
