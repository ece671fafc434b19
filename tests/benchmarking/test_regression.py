"""A latency against an earlier one."""

import json
from pathlib import Path

import numpy as np
import pytest

from protoseg_deploy.benchmarking.distribution import latency_stats
from protoseg_deploy.benchmarking.regression import changes_since
from protoseg_deploy.benchmarking.rows import MeasuredRow, read_rows
from protoseg_deploy.errors import ProtosegError, UsageError

CONDITIONS = {"runtime": "bundles/mine", "batch": 1, "height": 64, "width": 64, "threads": 2, "digest": "a" * 64}


def document(milliseconds: float, seed: int = 0, **changes) -> dict:
    values = np.random.default_rng(seed).normal(milliseconds, 0.03 * milliseconds, 200)
    stats = latency_stats(values, batch=1, warmup_runs=15, settled=True)
    return {**CONDITIONS, **stats.to_dict(), "machine": {"cpu": "one", "gpu": None}, **changes}


def changes(tmp_path: Path, before: dict, now: dict, allowed: float = 10.0):
    file = tmp_path / "old.json"
    file.write_text(json.dumps(before))
    return changes_since(read_rows(file, "--compare"), [MeasuredRow.model_validate(now)], allowed, file)


def test_what_is_slower_is_told_from_a_repeat(tmp_path: Path) -> None:
    (planted,) = changes(tmp_path, document(10), document(12, seed=1))
    assert planted.slower
    assert planted.percent == pytest.approx(20, abs=2)
    for seed in range(1, 6):
        (repeat,) = changes(tmp_path, document(10), document(10, seed=seed))
        assert not repeat.slower
    (allowed,) = changes(tmp_path, document(10), document(12, seed=1), allowed=30)
    assert not allowed.slower
    (faster,) = changes(tmp_path, {"runtimes": [document(10)]}, document(8))
    assert not faster.slower
    assert not faster.doubts


def test_a_difference_within_the_noise_is_none(tmp_path: Path) -> None:
    noisy = {"latency_p50_low_ms": 9.0, "latency_p50_high_ms": 14.0}
    (change,) = changes(tmp_path, document(10, **noisy), document(13))
    assert not change.slower


def test_what_speaks_against_a_comparison(tmp_path: Path) -> None:
    now = document(10, machine={"cpu": "other"}, digest="b" * 64, steady=False)
    (change,) = changes(tmp_path, document(10), now)
    assert len(change.doubts) == 3


@pytest.mark.parametrize(("key", "value"), [("batch", 2), ("height", 65), ("threads", 1), ("runtime", "other")])
def test_other_conditions_are_refused(tmp_path: Path, key: str, value) -> None:
    with pytest.raises(UsageError, match=r"bundles/mine \(1 x 64x64, 2 threads\)"):
        changes(tmp_path, document(10), document(10, **{key: value}))


@pytest.mark.parametrize("content", ["", "[]", '{"runtime": "x"}', '{"runtimes": [{}]}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "old.json"
    file.write_text(content)
    with pytest.raises(ProtosegError, match=r"old\.json") as caught:
        read_rows(file, "--compare")
    assert "bench … --json" in caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read_rows(tmp_path / "old.json", "--compare")
