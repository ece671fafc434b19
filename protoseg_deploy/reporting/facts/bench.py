"""Latencies that ``protoseg bench --json`` has measured."""

from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.benchmarking.pareto_plot import pareto_front
from protoseg_deploy.benchmarking.rows import MeasuredRow, read_rows
from protoseg_deploy.reporting.facts.names import short_names


@dataclass(frozen=True)
class BenchRow:
    """One measured runtime."""

    number: int
    """From 1, in the order of the arguments."""
    name: str
    """End of the path of the runtime, as much of it as tells it from the others."""
    row: MeasuredRow
    source: str
    """File it was read from."""
    on_front: bool
    """No other row of the report beats it in latency and in mIoU; False without an mIoU."""

    @property
    def machine(self) -> str:
        return self.row.machine.gpu or self.row.machine.cpu


@dataclass(frozen=True)
class BenchFacts:
    """All rows of a report."""

    rows: tuple[BenchRow, ...]


def bench_facts(paths: tuple[Path, ...]) -> BenchFacts:
    """Read the files of ``protoseg bench --json``, in order.

    Raises:
        UsageError: there is no such file.
        ProtosegError: one holds something else.
    """
    found = [(row, path.name) for path in paths for row in read_rows(path, "protoseg report")]
    front = {id(row) for row in pareto_front([row for row, _ in found])}
    names = short_names([row.runtime for row, _ in found])
    return BenchFacts(
        tuple(
            BenchRow(number, names[row.runtime], row, source, id(row) in front)
            for number, (row, source) in enumerate(found, start=1)
        )
    )
