"""Latencies that ``protoseg bench --json`` has measured."""

from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.benchmarking.pareto_plot import pareto_front
from protoseg_deploy.benchmarking.rows import MeasuredRow, read_rows


@dataclass(frozen=True)
class BenchRow:
    """One measured runtime."""

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

    def of_digests(self, digests: frozenset[str]) -> tuple[BenchRow, ...]:
        """Rows of artefacts with one of these digests."""
        return tuple(row for row in self.rows if row.row.digest in digests)


def bench_facts(paths: tuple[Path, ...]) -> BenchFacts:
    """Read the files of ``protoseg bench --json``, in order.

    Raises:
        UsageError: there is no such file.
        ProtosegError: one holds something else.
    """
    found = [(row, path.name) for path in paths for row in read_rows(path, "protoseg report")]
    front = {id(row) for row in pareto_front([row for row, _ in found])}
    return BenchFacts(tuple(BenchRow(row, source, id(row) in front) for row, source in found))
