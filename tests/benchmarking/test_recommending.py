"""Choosing among measured rows."""

import pytest

from protoseg_deploy.benchmarking.pareto_plot import pareto_front
from protoseg_deploy.benchmarking.recommending import check_comparable, parse_targets, recommend
from protoseg_deploy.benchmarking.rows import MeasuredRow
from protoseg_deploy.errors import UsageError


def row(name: str, p50: float, miou: float | None, **changes) -> MeasuredRow:
    percentiles = {f"latency_{key}_ms": p50 * (1 + number / 10) for number, key in enumerate(("p90", "p95", "p99"), 1)}
    values = {
        "runtime": name, "batch": 1, "height": 64, "width": 64, "threads": 1, "latency_p50_ms": p50,
        "latency_p50_low_ms": p50, "latency_p50_high_ms": p50, "latency_mean_ms": p50, **percentiles,
        "images_per_second": 1000 / p50, "steady": True, "miou_percent": miou, "file_bytes": 3_000_000,
        "miou_low_percent": miou and miou - 2, "machine": {"cpu": "one"},
    }  # fmt: skip
    return MeasuredRow.model_validate({**values, **changes})


ROWS = [
    row("slow", 30, 70),
    row("good", 10, 65),
    row("close", 8, 64),
    row("quick", 2, 50),
    row("shaky", 5, 69, steady=False, doubts=("it drifted",)),
    row("failed", 5, 68, verified=False),
    row("unknown", 5, None),
]


def test_the_best_that_meets_the_target_and_why_not_the_others() -> None:
    found = recommend(ROWS, parse_targets("p99<20ms"))
    assert found.best.runtime == "good"
    assert [one.runtime for one in found.others] == ["close", "quick"]
    assert [one.runtime for one in found.close] == ["close"]
    reasons = {one.runtime: reason for one, reason in found.ruled_out}
    assert reasons == {
        "slow": "p99 is 39.00 ms, not p99<20ms",
        "shaky": "its latency is not steady (it drifted)",
        "failed": "it failed its verification",
        "unknown": "its mIoU was not measured (bench --images DIR --masks DIR)",
    }


def test_of_equal_ones_the_quickest() -> None:
    assert recommend([row("a", 9, 60), row("b", 8, 60)], parse_targets("p50<10")).best.runtime == "b"


def test_nothing_may_be_left() -> None:
    found = recommend(ROWS, parse_targets("p99<1ms, miou>90%"))
    assert found.best is None
    reasons = {one.runtime: reason for one, reason in found.ruled_out}
    assert reasons["quick"] == "p99 is 2.60 ms, not p99<1ms; miou is 50.00 %, not miou>90%"


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        ("p50<=10ms", True), ("p50<10ms", False), ("p50<0.011s", True), ("mean<11", True), ("size<3MB", False),
        ("size<=3mb", True), ("throughput>=100", True), ("throughput>100", False), ("MIOU > 60", True),
        ("p95 > 1", True),
    ],
)  # fmt: skip
def test_targets(text: str, meets: bool) -> None:
    assert (recommend([row("a", 10, 65)], parse_targets(text)).best is not None) == meets


@pytest.mark.parametrize(
    "text", ["", "fast", "p98<10ms", "p99=10", "p99<ms", "p99<10MB", "miou>50ms", "p99<10ms,", "p99<-1"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(UsageError, match="--target"):
        parse_targets(text)


def test_rows_of_different_machines_are_not_compared() -> None:
    with pytest.raises(UsageError, match="different machines: one, other"):
        check_comparable([row("a", 1, 1), row("b", 1, 1, machine={"cpu": "other"})])
    with pytest.raises(UsageError, match="different batches: 1, 8"):
        check_comparable([row("a", 1, 1), row("b", 1, 1, batch=8)])
    check_comparable(ROWS)


def test_the_front_is_what_no_other_one_beats() -> None:
    rows = [*ROWS[:4], row("worse", 12, 64), row("as slow", 10, 60), row("unjudged", 1, None)]
    assert [one.runtime for one in pareto_front(rows)] == ["quick", "close", "good", "slow"]
