"""Which of the measured artefacts meets a target at the best accuracy."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protoseg_deploy.benchmarking.rows import MeasuredRow
from protoseg_deploy.errors import UsageError

_LATENCIES = ("p50", "p90", "p95", "p99", "mean")
_FORM = re.compile(
    r"\s*(?P<what>[a-z0-9]+)\s*(?P<sign><=|>=|<|>)\s*(?P<value>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|mb|%|j)?\s*"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_HINT = 'For example --target "p99<20ms", or several: "p99<20ms, size<5MB, miou>60".'


@dataclass(frozen=True)
class Target:
    """One condition that a row has to meet."""

    text: str
    what: str
    """``p50``, ``p90``, ``p95``, ``p99``, ``mean`` (ms), ``size`` (MB), ``throughput`` (images/s), ``energy`` (J/image)
    or ``miou`` (%)."""
    sign: str
    value: float

    def why_not(self, row: MeasuredRow) -> str | None:
        """Why a row does not meet it; None: it does."""
        found = _measured(row, self.what)
        if found is None:
            return f"its {self.what} was not measured"
        unit = {"size": " MB", "miou": " %", "throughput": " images/s", "energy": " J/image"}.get(self.what, " ms")
        return None if _SIGNS[self.sign](found, self.value) else f"{self.what} is {found:.2f}{unit}, not {self.text}"


@dataclass(frozen=True)
class Recommendation:
    """What was chosen, and what was not."""

    best: MeasuredRow | None
    """None: nothing meets the target."""
    others: tuple[MeasuredRow, ...]
    """What meets it as well, best first."""
    ruled_out: tuple[tuple[MeasuredRow, str], ...]
    """With the reason of each."""
    close: tuple[MeasuredRow, ...]
    """Of `others`: their mIoU lies within the interval of the best one's, so that other images may turn the order."""


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read conditions such as ``p99<20ms, size<5MB``.

    Raises:
        UsageError: it is none.
    """
    targets = []
    for part in text.split(","):
        match = _FORM.fullmatch(part.lower())
        known = (*_LATENCIES, "size", "throughput", "energy", "miou")
        if match is None or match["what"] not in known:
            raise UsageError(f"--target {part.strip()!r} is no condition on {', '.join(known)}", _HINT)
        what, unit = match["what"], match["unit"]
        allowed = (
            ("ms", "s") if what in _LATENCIES else {"size": ("mb",), "miou": ("%",), "energy": ("j",)}.get(what, ())
        )
        if unit is not None and unit not in allowed:
            raise UsageError(f"--target {part.strip()!r}: {what} is not measured in {unit}", _HINT)
        value = float(match["value"]) * (1000 if unit == "s" else 1)
        targets.append(Target(part.strip(), what, match["sign"], value))
    return tuple(targets)


def recommend(rows: Sequence[MeasuredRow], targets: Sequence[Target]) -> Recommendation:
    """Choose the row with the best mIoU among those that meet all targets; of equal ones the quickest.

    Rows whose latency is not steady, whose artefact failed its verification, or whose mIoU was not measured, are not
    chosen. Nothing is estimated.

    Args:
        rows: measured under the same conditions.
        targets: see `parse_targets`.
    """
    fit, ruled_out = [], []
    for row in rows:
        reasons = [*_unfit(row), *(reason for target in targets if (reason := target.why_not(row)))]
        if reasons:
            ruled_out.append((row, "; ".join(reasons)))
        else:
            fit.append(row)
    fit.sort(key=lambda row: (-(row.miou_percent or 0.0), row.latency_p50_ms))
    best, others = (fit[0], fit[1:]) if fit else (None, [])
    low = best.miou_low_percent if best else None
    close = [row for row in others if low is not None and (row.miou_percent or 0.0) >= low]
    return Recommendation(best, tuple(others), tuple(ruled_out), tuple(close))


def check_comparable(rows: Sequence[MeasuredRow]) -> None:
    """Refuse to choose between figures of different machines, or of different batches.

    Raises:
        UsageError: they differ; the message says in what.
    """
    hint = "A recommendation is for one machine and one way to use it: give rows of that alone."
    machines = dict.fromkeys(row.machine.gpu or row.machine.cpu for row in rows)
    if len(machines) > 1:
        raise UsageError(f"the rows were measured on different machines: {', '.join(machines)}", hint)
    batches = dict.fromkeys(str(row.batch) for row in rows)
    if len(batches) > 1:
        raise UsageError(f"the rows were measured with different batches: {', '.join(batches)}", hint)


def _unfit(row: MeasuredRow) -> list[str]:
    reasons = []
    if not row.steady:
        reasons.append(f"its latency is not steady ({'; '.join(row.doubts) or 'no reason given'})")
    if row.verified is False:
        reasons.append("it failed its verification")
    if row.miou_percent is None:
        reasons.append("its mIoU was not measured (bench --images DIR --masks DIR)")
    return reasons


def _measured(row: MeasuredRow, what: str) -> float | None:
    if what == "miou":
        return row.miou_percent
    if what == "size":
        return row.file_bytes / 1e6
    if what == "energy":
        return row.joules_per_image
    if what == "throughput":
        return row.images_per_second
    return float(getattr(row, f"latency_{what}_ms"))
