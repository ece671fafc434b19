"""Whether something became slower than an earlier measurement, for continuous integration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg_deploy.benchmarking.rows import MeasuredRow
from protoseg_deploy.errors import UsageError


@dataclass(frozen=True)
class Change:
    """The latency of one runtime, then and now."""

    runtime: str
    before_ms: float
    """Median at the boundary of the row, see `MeasuredRow`."""
    now_ms: float
    slower: bool
    """By more than is allowed, and not by chance: the confidence intervals of the medians do not meet."""
    doubts: tuple[str, ...]
    """What speaks against comparing the two."""

    @property
    def percent(self) -> float:
        """How much slower; negative: faster."""
        return 100 * (self.now_ms / self.before_ms - 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys."""
        return {
            "runtime": self.runtime,
            "before_p50_ms": self.before_ms,
            "now_p50_ms": self.now_ms,
            "slowdown_percent": self.percent,
            "slower": self.slower,
            "doubts": list(self.doubts),
        }


def require_counterparts(earlier: Sequence[MeasuredRow], wanted: Sequence[Mapping[str, Any]], source: Path) -> None:
    """Find out before measuring what there is nothing to compare with.

    Args:
        earlier: see `read_rows`.
        wanted: for each measurement ``runtime``, ``batch`` and what else is known of it, as fields of `MeasuredRow`.
        source: the file of `earlier`, for messages.

    Raises:
        UsageError: no earlier row agrees with one of them.
    """
    for each in wanted:
        if not any(all(getattr(row, key) == value for key, value in each.items()) for row in earlier):
            size = f" x {each['height']}x{each['width']}" if "height" in each else " a call"
            threads = f", {each['threads']} threads" if "threads" in each else ""
            raise _no_counterpart(f"{each['runtime']} ({each['batch']}{size}{threads})", earlier, source)


def changes_since(
    earlier: Sequence[MeasuredRow], rows: Sequence[MeasuredRow], max_slowdown_percent: float, source: Path
) -> list[Change]:
    """Compare a measurement with an earlier one, row by row.

    Args:
        earlier: see `read_rows`.
        rows: of this measurement.
        max_slowdown_percent: allowed.
        source: the file of `earlier`, for messages.

    Raises:
        UsageError: a row has no counterpart of the same runtime, batch, size, threads and CUDA graph.
    """
    known = {row.conditions: row for row in earlier}
    changes = []
    for now in rows:
        before = known.get(now.conditions)
        if before is None:
            raise _no_counterpart(now.described, earlier, source)
        apart = now.latency_p50_low_ms > before.latency_p50_high_ms
        too_much = now.latency_p50_ms > before.latency_p50_ms * (1 + max_slowdown_percent / 100)
        changes.append(
            Change(
                now.runtime, before.latency_p50_ms, now.latency_p50_ms, apart and too_much, tuple(_doubts(before, now))
            )
        )
    return changes


def _no_counterpart(described: str, earlier: Sequence[MeasuredRow], source: Path) -> UsageError:
    there = "; ".join(row.described for row in earlier)
    return UsageError(
        f"--compare {source} has no {described}; it has {there}",
        "Measure with the same arguments, or write a new file with --json.",
    )


def _doubts(before: MeasuredRow, now: MeasuredRow) -> list[str]:
    doubts = []
    if before.machine != now.machine:
        doubts.append(f"the earlier machine was another one ({before.machine.gpu or before.machine.cpu})")
    if not before.steady:
        doubts.append("the earlier latency was not steady")
    if not now.steady:
        doubts.append("the latency is not steady")
    if before.digest != now.digest:
        doubts.append("the artefact is another one")
    return doubts
