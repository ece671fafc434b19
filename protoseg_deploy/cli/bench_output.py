"""What ``protoseg bench`` prints."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import click

from protoseg_deploy.benchmarking.latency_report import LatencyReport
from protoseg_deploy.benchmarking.machine import Machine
from protoseg_deploy.benchmarking.pareto_plot import draw_pareto
from protoseg_deploy.benchmarking.regression import Change
from protoseg_deploy.benchmarking.rows import CONDITIONS, MeasuredRow
from protoseg_deploy.benchmarking.sweep_plot import draw_sweep
from protoseg_deploy.cli.arguments import note, note_verification, print_table
from protoseg_deploy.cli.bench_card import NOT_STEADY, Row, print_card
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime

_ON_CARDS = ("digest", "95 %", "p95 (ms)", "MB")
"""Columns that a terminal has no room for."""


def document(rows: Sequence[Row], changes: Sequence[Change]) -> dict[str, Any]:
    """The JSON document: the row of a runtime alone, or of several with their ratios."""
    documents = [row.to_dict() for row in rows]
    for entry, change in zip(documents, changes, strict=False):
        entry["compared"] = change.to_dict()
    if len(rows) == 1:
        return documents[0]
    ratios = [{"runtime": row.text, "against": rows[0].text, **_ratios(row.report, rows[0].report)} for row in rows[1:]]
    return {"runtimes": documents, "ratios": ratios}


def _ratios(report: LatencyReport, first: LatencyReport) -> dict[str, float]:
    """Of the medians, at the boundaries that both have."""
    ours, theirs = report.boundaries, first.boundaries
    shared = [name for name in ours if name in theirs]
    return {"p50_ratio": report.stats.p50_ms / first.stats.p50_ms} | {
        f"{name}_p50_ratio": ours[name].p50_ms / theirs[name].p50_ms for name in shared
    }


def note_doubts(texts: Sequence[str], runtimes: Sequence[Runtime]) -> None:
    """Say what speaks against taking a latency for that of the network on its hardware."""
    for text, runtime in zip(texts, runtimes, strict=True):
        note_verification(runtime.info)
        emulated = runtime.info.emulated
        if emulated:
            note(f"{text}: {emulated}. Its latency here says nothing about hardware that has the type.")


def note_unsteady(rows: Sequence[Row]) -> None:
    """Say which figures are not those of a quiet machine, and why."""
    for row in rows:
        reasons: dict[tuple[str, ...], list[str]] = {}
        for name, stats in row.report.boundaries.items():
            if not stats.steady:
                reasons.setdefault(stats.doubts, []).append(name)
        for doubts, names in reasons.items():
            note(f"{row.text}: the latency is not steady ({', '.join(names)}): {'; '.join(doubts)}.")
        if row.report.energy_absent:
            note(f"{row.text}: no energy is measured: {row.report.energy_absent}.")
        if row.report.energy is not None and row.report.energy.warning:
            note(f"{row.text}: {row.report.energy.warning}.")


def note_requests(rows: Sequence[Row]) -> None:
    """Say where a request to a server takes less time than the same file here, which it holds."""
    for row in rows:
        for other in rows:
            request, arrays = row.report.boundaries.get("request"), other.report.boundaries.get("arrays")
            if row.digest and row.digest == other.digest and request and arrays and request.p50_ms < arrays.p50_ms:
                note(
                    f"{row.text} answers in {request.p50_ms:.2f} ms, and the same file takes {arrays.p50_ms:.2f} ms "
                    f"here ({other.text}): the server has another machine, or more threads."
                )


def note_changes(changes: Sequence[Change], allowed_percent: float) -> None:
    """Say how much slower or faster each runtime is than it was."""
    for change in changes:
        verdict = f"slower than the allowed {allowed_percent:g} %" if change.slower else "within what is allowed"
        doubts = f" ({'; '.join(change.doubts)})" if change.doubts else ""
        note(
            f"{change.runtime}: {change.before_ms:.2f} ms then, {change.now_ms:.2f} ms now "
            f"({change.percent:+.1f} %): {verdict}{doubts}."
        )


def print_cards(rows: Sequence[Row], earlier: Sequence[MeasuredRow]) -> None:
    """All figures for people, with the machine; of earlier rows what the table has."""
    for row in rows:
        print_card(row)
    table = [*earlier, *(row.measured() for row in rows)]
    if len(table) > 1 or table[0].miou_percent is not None or earlier:
        columns, cells = _summary(table)
        shown = [number for number, column in enumerate(columns) if column not in _ON_CARDS]
        print_table([columns[number] for number in shown], [[line[number] for number in shown] for line in cells])
    if rows:
        _print_machine(rows[0].report.machine)
    else:
        click.echo("measured on " + ", ".join(dict.fromkeys(row.machine.gpu or row.machine.cpu for row in table)))


def markdown(rows: Sequence[Row], earlier: Sequence[MeasuredRow]) -> str:
    """The table that compares the rows, with what is needed to measure it again."""
    columns, cells = _summary([*earlier, *(row.measured() for row in rows)])
    lines = [[_cell(text) for text in line] for line in ([*columns], *cells)]
    table = [f"| {' | '.join(line)} |" for line in lines]
    table.insert(1, f"|{'---|' * len(columns)}")
    if rows:
        first, machine = rows[0].report, rows[0].report.machine
        source = "random noise" if first.input == "random" else "real images"
        table += [
            "",
            f"{first.batch} x {first.height}x{first.width} px of {source}. {_machine(machine)}. {machine.date}.",
        ]
    return "\n".join([*table, ""])


def csv_text(rows: Sequence[Row], earlier: Sequence[MeasuredRow]) -> str:
    """All figures of the rows, one line each, in the names of the JSON document."""
    text = StringIO(newline="")
    flat = [
        {**row.model_dump(exclude={"machine"}), "doubts": "; ".join(row.doubts), **row.machine.model_dump()}
        for row in (*earlier, *(row.measured() for row in rows))
    ]
    writer = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def plot(rows: Sequence[Row], earlier: Sequence[MeasuredRow], path: Path) -> None:
    """Latency over what was varied, see `draw_sweep`; else accuracy over latency, see `draw_pareto`.

    Raises:
        UsageError: no row has an mIoU.
        WriteError: the file cannot be written.
    """
    table = [*earlier, *(row.measured() for row in rows)]
    if varied := _varied(table):
        draw_sweep(table, varied, path)
        return
    if all(row.miou_percent is None for row in table):
        raise UsageError("--plot shows mIoU over latency: no row has an mIoU", "Give --images and --masks.")
    draw_pareto(table, path)


def _summary(rows: Sequence[MeasuredRow]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the table that compares runtimes; latencies are those of its boundary."""
    judged = any(row.miou_percent is not None for row in rows)
    several = len({(row.machine.gpu, row.machine.cpu) for row in rows}) > 1
    columns = ["runtime", "digest"]
    columns += ["machine"] if several else []
    varied = _varied(rows)
    columns += varied
    columns += ["mIoU % (95 %)", "agreement %"] if judged else []
    columns += ["p50 (ms)", "95 %", "p95 (ms)", "p50 / first", "images/s"]
    columns += ["J/image"] if _metered(rows) else []
    columns.append("MB")
    return columns, [_cells(row, rows[0], judged, several, varied, _metered(rows)) for row in rows]


def _comparable(row: MeasuredRow, first: MeasuredRow) -> bool:
    """Whether two latencies are of the same images on the same machine."""
    return (row.batch, row.height, row.width, row.machine) == (first.batch, first.height, first.width, first.machine)


def _metered(rows: Sequence[MeasuredRow]) -> bool:
    return any(row.joules_per_image is not None for row in rows)


def _varied(rows: Sequence[MeasuredRow]) -> list[str]:
    """Conditions in which the rows differ."""
    return [name for name in CONDITIONS if len({row.shown(name) for row in rows}) > 1]


def _cells(
    row: MeasuredRow, first: MeasuredRow, judged: bool, several: bool, varied: Sequence[str], metered: bool
) -> list[str]:
    cells = [row.runtime, row.digest[:12] or "–"]
    if several:
        cells.append(row.machine.gpu or row.machine.cpu)
    cells += [row.shown(name) for name in varied]
    if judged and row.miou_percent is not None:
        low, high = row.miou_low_percent, row.miou_high_percent
        interval = "" if low is None or high is None else f" ({low:.2f}–{high:.2f})"
        agreement = "–" if row.agreement_percent is None else f"{row.agreement_percent:.3f}"
        cells += [f"{row.miou_percent:.2f}{interval}", agreement]
    elif judged:
        cells += ["–", "–"]
    return [
        *cells,
        f"{row.latency_p50_ms:.2f}",
        f"{row.latency_p50_low_ms:.2f}–{row.latency_p50_high_ms:.2f}",
        f"{row.latency_p95_ms:.2f}",
        f"{row.latency_p50_ms / first.latency_p50_ms:.2f}x" if _comparable(row, first) else "–",
        f"{row.images_per_second:.1f}" if row.steady else NOT_STEADY,
        *([f"{row.joules_per_image:.4g}" if row.joules_per_image is not None else "–"] if metered else []),
        f"{row.file_bytes / 1e6:.2f}",
    ]


def _print_machine(machine: Machine) -> None:
    click.echo(
        f"{_machine(machine)}\n{machine.os}, Python {machine.python}, "
        + ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    )


def _machine(machine: Machine) -> str:
    governor = f", governor {machine.cpu_governor}" if machine.cpu_governor else ""
    governor += f", power mode {machine.power_mode}" if machine.power_mode else ""
    return (
        f"{machine.gpu + ', ' if machine.gpu else ''}{machine.cpu}, {machine.physical_cores} cores "
        f"({machine.usable_cores} of {machine.logical_cores} logical ones usable){governor}, "
        f"{machine.memory_gib} GiB, load {machine.load_average_1min}"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
