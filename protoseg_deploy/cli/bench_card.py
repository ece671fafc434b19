"""One runtime that was measured, and all its figures for people."""

from dataclasses import dataclass
from typing import Any

import click

from protoseg_deploy.benchmarking.accuracy import Accuracy
from protoseg_deploy.benchmarking.distribution import LatencyStats
from protoseg_deploy.benchmarking.latency_report import LatencyReport
from protoseg_deploy.benchmarking.rows import MeasuredRow
from protoseg_deploy.cli.arguments import describe_runtime, print_table

NOT_STEADY = "not steady"


@dataclass(frozen=True)
class Row:
    """One runtime that was measured."""

    text: str
    """As on the command line."""
    digest: str
    report: LatencyReport
    accuracy: Accuracy | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys."""
        accuracy = self.accuracy.to_dict() if self.accuracy else {}
        facts = {**describe_runtime(self.report.info), "runtime": self.text, "digest": self.digest}
        return {**self.report.to_dict(), **facts, **accuracy}

    def measured(self) -> MeasuredRow:
        """The same as it is read back from a file."""
        return MeasuredRow.model_validate(self.to_dict())


def _throughput(stats: LatencyStats) -> str:
    """The figure people quote, where it may be quoted."""
    return f"{stats.images_per_second:.1f}" if stats.steady else NOT_STEADY


def print_card(row: Row) -> None:
    """Print them."""
    report, info = row.report, row.report.info
    every = report.boundaries.values()
    rows: list[tuple[object, ...]] = [
        ("p50 latency (ms)", *(f"{stats.p50_ms:.2f}" for stats in every)),
        ("  95 % interval", *(f"{stats.p50_low_ms:.2f}–{stats.p50_high_ms:.2f}" for stats in every)),
        ("p90 latency (ms)", *(f"{stats.p90_ms:.2f}" for stats in every)),
        ("p95 latency (ms)", *(f"{stats.p95_ms:.2f}" for stats in every)),
        ("p99 latency (ms)", *(f"{stats.p99_ms:.2f}" for stats in every)),
        ("max latency (ms)", *(f"{stats.max_ms:.2f}" for stats in every)),
        ("mean latency (ms)", *(f"{stats.mean_ms:.2f}" for stats in every)),
        ("variation (%)", *(f"{stats.variation_percent:.1f}" for stats in every)),
        ("images per second", *(_throughput(stats) for stats in every)),
        ("timed calls", *(stats.runs for stats in every)),
        ("warm-up calls", *(stats.warmup_runs for stats in every)),
    ]
    print_table(["", *report.boundaries], rows, title=f"{row.text} ({info.kind}, {info.precision}, {info.device})")
    source = "random noise" if report.input == "random" else "real images"
    plural = "thread" if info.threads == 1 else "threads"
    threads = f", {info.threads} {plural} (this process kept {report.cores:.1f} cores busy)" if info.threads else ""
    graph = {None: "", True: ", CUDA graph on", False: ", CUDA graph off"}[info.cuda_graph]
    digest = f", sha256 {row.digest[:12]}" if row.digest else ""
    click.echo(
        f"{info.backend}{threads}{graph}; {report.batch} x {report.height}x{report.width} px of {source}\n"
        f"{info.parameters / 1e6:.2f} M parameters, file {info.file_bytes / 1e6:.2f} MB{digest}\n"
        f"{_before(report)}\n{_memory(report)}\n{_energy(report)}{report.diagnosis.text}\n"
    )


def _before(report: LatencyReport) -> str:
    """What comes before the calls that count."""
    built, loaded = report.info.build_seconds, report.load_ms
    parts = [f"built in {built:.1f} s"] if built is not None else []
    parts += [f"loaded in {loaded:.0f} ms"] if loaded is not None else []
    parts.append(f"first call {report.first_call_ms:.1f} ms")
    if report.server_queue_ms is not None and report.server_compute_ms is not None:
        parts.append(f"on the server {report.server_queue_ms:.2f} ms queue, {report.server_compute_ms:.2f} ms compute")
    return ", ".join(parts)


def _energy(report: LatencyReport) -> str:
    """A line of its own, or nothing."""
    found = report.energy
    if found is None:
        return ""
    clock, degrees = found.clock_mhz[1], found.temperature_c
    heat = f", {degrees[0]:.0f} to {degrees[2]:.0f} °C" if degrees[0] is not None and degrees[2] is not None else ""
    at = f" at {clock:.0f} MHz" if clock is not None else ""
    slowed = f", slowed down by {', '.join(found.slowed_by)}" if found.slowed_by else ""
    mode = f", {found.power_mode}" if found.power_mode else ""
    return (
        f"{found.joules_per_image:.4g} J/image, {found.joules_per_image_net:.4g} without the idle "
        f"{found.idle_watts:.1f} W; {found.mean_watts:.1f} W{at}{heat}{slowed}; {found.scope}, {found.source}{mode}\n"
    )


def _memory(report: LatencyReport) -> str:
    parts = [f"memory of the process: peak {report.process_peak_memory_mib} MiB"]
    parts += [f"{report.host_memory_mib} MiB for this runtime"] if report.host_memory_mib is not None else []
    parts += [f"GPU memory in use {report.gpu_memory_used_mib} MiB"] if report.gpu_memory_used_mib is not None else []
    return ", ".join(parts)
