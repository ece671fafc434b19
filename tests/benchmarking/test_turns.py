"""Taking turns: order, what counts, and figures made of the rounds."""

import pytest
import torch

from protoseg_deploy.benchmarking.turns import Times, measure_in_turns, medians


def test_everything_takes_its_turn_and_the_first_round_does_not_count():
    calls = []
    work = {name: lambda name=name: calls.append(name) for name in "ab"}
    found = measure_in_turns(work, rounds=2, calls=3, device=torch.device("cpu"))
    assert calls == list("aaabbb" * 3)
    assert [len(times.rounds_ms) for times in found.values()] == [2, 2]


def test_a_ratio_is_taken_within_rounds():
    """The machine was four times slower in the last rounds; the ratio is what it was."""
    slow, fast = Times((2.2, 2.2, 8.8, 8.8, 8.8)), Times((2.0, 2.0, 8.0, 8.0, 8.0))
    assert slow.over(fast) == pytest.approx(1.1)
    assert slow.median_ms == 8.8


def test_spread_is_that_of_the_middle_half():
    assert Times((90.0, 100.0, 100.0, 110.0, 500.0)).spread_percent == pytest.approx(10)
    assert Times((5.0,)).spread_percent == 0


def test_a_stage_that_is_missing_took_no_time():
    assert medians([{"a": 1.0}, {"a": 3.0, "b": 1.0}, {"a": 2.0}]) == {"a": 2.0, "b": 0.0}
