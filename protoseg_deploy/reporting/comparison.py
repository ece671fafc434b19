"""Variants of a recipe side by side: their results over seeds, as a document, as tables and as a picture."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from protoseg_deploy.documents import dump_document
from protoseg_deploy.files import write_atomically
from protoseg_deploy.reporting.curves import Curve, draw_curves
from protoseg_deploy.text import one_line, readable
from protoseg_deploy.training.records import finite
from protoseg_deploy.training.sweep import DOCUMENT, PICTURE, TEXT, PlannedRun


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of `n` runs."""

    mean: float
    sd: float | None
    """None for one run."""
    n: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Of the values that are there; None where there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class RunResult:
    """One run; figures are None unless it is finished."""

    seed: int
    folder: str
    state: Literal["finished", "unfinished", "failed", "not started"]
    step: int
    """The last one in its metrics."""
    steps: int
    best_miou_percent: float | None = None
    last_miou_percent: float | None = None
    last_iou_percent: dict[str, float | None] | None = None
    train_seconds: float | None = None
    peak_memory_mib: float | None = None


@dataclass(frozen=True)
class VariantResult:
    """One variant over its finished runs."""

    runs: tuple[RunResult, ...]
    best_miou_percent: Spread | None
    last_miou_percent: Spread | None
    last_iou_percent: dict[str, Spread | None]
    """By class."""
    train_seconds: Spread | None
    peak_memory_mib: Spread | None
    best_difference: Spread | None
    """To the first variant, run by run of the same seed, in percentage points of mIoU; the first has none."""
    last_difference: Spread | None

    @property
    def finished(self) -> int:
        return sum(run.state == "finished" for run in self.runs)


@dataclass(frozen=True)
class ComparisonTable:
    """Cells as text; the first column names the rows."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Comparison:
    """What `compare_runs` finds; ``comparison.json`` holds the same."""

    seeds: tuple[int, ...]
    against: str
    """The first variant."""
    variants: dict[str, VariantResult]
    curves: dict[str, list[Curve]]
    """By variant: mIoU in percent over steps, of every finished run. Not in the document: it is in the metrics."""

    def document(self) -> dict[str, Any]:
        """JSON values."""
        variants = {name: asdict(variant) for name, variant in self.variants.items()}
        return {"seeds": list(self.seeds), "against": self.against, "variants": variants}

    def unfinished(self) -> list[str]:
        """One line each."""
        return [
            f"{name}/seed-{run.seed}: {run.state}{f' at step {run.step} of {run.steps}' if run.step else ''}"
            for name, variant in self.variants.items()
            for run in variant.runs
            if run.state != "finished"
        ]

    def tables(self) -> list[ComparisonTable]:
        """mIoU and cost; differences to the first variant, where there are others; IoU of every class."""
        tables = [
            ComparisonTable(
                "mIoU on the validation images, mean ± sample standard deviation over seeds; mean cost",
                ("", "runs", "best %", "last %", "time s", "peak MiB"),
                tuple(
                    (
                        name,
                        f"{variant.finished}/{len(variant.runs)}",
                        _cell(variant.best_miou_percent),
                        _cell(variant.last_miou_percent),
                        _mean(variant.train_seconds, digits=0),
                        _mean(variant.peak_memory_mib, digits=0),
                    )
                    for name, variant in self.variants.items()
                ),
            )
        ]
        if len(self.variants) > 1:
            tables.append(
                ComparisonTable(
                    f"Against {self.against}, run by run of the same seed, mIoU points",
                    ("", "pairs", "best", "last"),
                    tuple(
                        (
                            name,
                            str(variant.last_difference.n if variant.last_difference else 0),
                            _cell(variant.best_difference, sign="+"),
                            _cell(variant.last_difference, sign="+"),
                        )
                        for name, variant in self.variants.items()
                        if name != self.against
                    ),
                )
            )
        classes = dict.fromkeys(name for variant in self.variants.values() for name in variant.last_iou_percent)
        if classes:
            tables.append(
                ComparisonTable(
                    "IoU %, last evaluation, mean over seeds",
                    ("class", *self.variants),
                    tuple(
                        (
                            name,
                            *(_mean(variant.last_iou_percent.get(name)) for variant in self.variants.values()),
                        )
                        for name in classes
                    ),
                )
            )
        return tables

    def markdown(self) -> str:
        """All tables, and what is unfinished."""
        parts = []
        for table in self.tables():
            lines = [table.columns, ("---", *("---:" for _ in table.columns[1:])), *table.rows]
            parts.append(
                f"{table.title}:\n\n" + "\n".join(f"| {' | '.join(map(_in_markdown, line))} |" for line in lines)
            )
        if self.unfinished():
            parts.append("Not in the figures:\n\n" + "\n".join(f"- {line}" for line in self.unfinished()))
        return "\n\n".join(parts) + "\n"

    def write(self, folder: Path) -> list[Path]:
        """``comparison.json``, ``comparison.md`` and, once a run is finished, ``miou.png``; returns their paths.

        Raises:
            ProtosegError: a file cannot be written.
        """
        written = [folder / DOCUMENT, folder / TEXT]
        write_atomically(written[0], dump_document(finite(self.document())))
        write_atomically(written[1], readable(self.markdown()).encode())
        if any(self.curves.values()):
            written.append(folder / PICTURE)
            draw_curves(self.curves, written[-1])
        return written


def compare_runs(planned: Sequence[PlannedRun], failed: Sequence[str] = ()) -> Comparison:
    """Read the runs of a sweep, finished or not.

    Args:
        planned: see `plan_runs`; the first one's variant is what the others are compared with.
        failed: names of those that ended with an error.
    """
    by_variant: dict[str, list[PlannedRun]] = {}
    for run in planned:
        by_variant.setdefault(run.variant, []).append(run)
    results = {name: [_result(run, failed) for run in runs] for name, runs in by_variant.items()}
    first, *_ = results
    return Comparison(
        seeds=tuple(dict.fromkeys(run.seed for run in planned)),
        against=first,
        variants={name: _over_seeds(runs, None if name == first else results[first]) for name, runs in results.items()},
        curves={name: [_curve(run) for run in runs if run.is_finished()] for name, runs in by_variant.items()},
    )


def _result(planned: PlannedRun, failed: Sequence[str]) -> RunResult:
    run, steps = planned.run, planned.recipe.train.steps
    metrics = run.metrics()
    step = metrics[-1]["step"] if metrics else 0
    if not planned.is_finished():
        state: Literal["failed", "unfinished", "not started"] = "unfinished" if run.exists() else "not started"
        return RunResult(planned.seed, str(run.folder), "failed" if planned.name in failed else state, step, steps)
    summary = run.summary()
    return RunResult(
        planned.seed,
        str(run.folder),
        "finished",
        step,
        steps,
        summary["best_miou_percent"],
        summary["last_miou_percent"],
        summary["last_iou_percent"],
        summary["train_seconds"],
        summary.get("peak_memory_mib"),
    )


def _over_seeds(runs: Sequence[RunResult], first: Sequence[RunResult] | None) -> VariantResult:
    classes = dict.fromkeys(name for run in runs for name in run.last_iou_percent or ())
    return VariantResult(
        runs=tuple(runs),
        best_miou_percent=Spread.of(run.best_miou_percent for run in runs),
        last_miou_percent=Spread.of(run.last_miou_percent for run in runs),
        last_iou_percent={
            name: Spread.of(run.last_iou_percent.get(name) for run in runs if run.last_iou_percent) for name in classes
        },
        train_seconds=Spread.of(run.train_seconds for run in runs),
        peak_memory_mib=Spread.of(run.peak_memory_mib for run in runs),
        best_difference=_difference(runs, first, lambda run: run.best_miou_percent),
        last_difference=_difference(runs, first, lambda run: run.last_miou_percent),
    )


def _difference(
    runs: Sequence[RunResult], first: Sequence[RunResult] | None, figure: Callable[[RunResult], float | None]
) -> Spread | None:
    others: Mapping[int, float | None] = {run.seed: figure(run) for run in first or ()}
    pairs = [(figure(run), others.get(run.seed)) for run in runs]
    return Spread.of(own - other for own, other in pairs if own is not None and other is not None)


def _curve(planned: PlannedRun) -> Curve:
    return [
        (record["step"], record["miou_percent"])
        for record in planned.run.metrics()
        if record["kind"] == "evaluation" and record["miou_percent"] is not None
    ]


def _in_markdown(cell: str) -> str:
    return one_line(cell).replace("|", "\\|")


def _cell(spread: Spread | None, sign: str = "") -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:{sign}.2f}" if spread.sd is None else f"{spread.mean:{sign}.2f} ± {spread.sd:.2f}"


def _mean(spread: Spread | None, digits: int = 2) -> str:
    return "–" if spread is None else f"{spread.mean:.{digits}f}"
