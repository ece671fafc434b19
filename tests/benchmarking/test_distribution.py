"""Summaries of latencies, and what speaks against them."""

import numpy as np
import pytest

from protoseg_deploy.benchmarking.distribution import latency_stats, median_interval


def stats(values, **options):
    return latency_stats(values, **{"batch": 1, "warmup_runs": 15, "settled": True, **options})


def test_a_quiet_machine_leaves_no_doubts() -> None:
    values = np.random.default_rng(0).normal(10, 0.2, 300)
    found = stats(values, batch=4)
    assert found.steady
    assert found.p50_low_ms < found.p50_ms < found.p50_high_ms
    assert found.p50_high_ms - found.p50_low_ms < 0.15
    assert found.p50_ms <= found.p90_ms <= found.p95_ms <= found.p99_ms <= found.max_ms
    assert found.images_per_second == pytest.approx(4000 / values.mean())


@pytest.mark.parametrize(
    ("values", "options", "doubt"),
    [
        (np.full(100, 5.0), {"settled": False}, "did not stabilise"),
        (np.tile([5.0, 5.0, 9.0], 40), {}, "varies by 30 %"),
        (np.linspace(10, 11, 300), {}, "drifted by 7 %"),
        (np.full(19, 5.0), {}, "19 runs are few"),
        (np.full(100, 5.0), {"doubts": ["other programs used 1.0 cores meanwhile"]}, "other programs"),
    ],
)
def test_doubts(values, options, doubt: str) -> None:
    found = stats(values, **options)
    assert not found.steady
    assert len(found.doubts) == 1
    assert doubt in found.doubts[0]
    assert found.to_dict()["doubts"] == list(found.doubts)


@pytest.mark.parametrize("disturbed_together", [1, 8])
def test_the_interval_holds_the_median_about_as_often_as_it_says(disturbed_together: int) -> None:
    """Also where what disturbs calls lasts for several of them."""
    random, inside, tries = np.random.default_rng(1), 0, 200
    for _ in range(tries):
        noise = np.repeat(random.exponential(1.0, 400 // disturbed_together), disturbed_together)
        low, high = median_interval(10 + noise)
        inside += low <= 10 + np.log(2) <= high
    assert inside >= 0.88 * tries


def test_one_call_is_its_own_interval() -> None:
    assert median_interval(np.array([3.0])) == (3.0, 3.0)
