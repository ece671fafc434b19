"""``protoseg bench``: latency and memory of runs, bundles, ONNX files and engines."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    backend_option,
    describe_runtime,
    device_option,
    height_and_width,
    json_option,
    note,
    note_verification,
    precision_option,
    print_json,
    print_table,
    runtime_argument,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.benchmarking.latency import LatencyReport
    from protoseg_deploy.benchmarking.machine import Machine
    from protoseg_deploy.runtimes.base import Runtime

_THREADS_PER_CORE = 8


def _as_many_as_help(_context: click.Context, _option: click.Parameter, threads: int | None) -> int | None:
    """Callback: threads that wait for each other by spinning make a call take minutes where they are many more."""
    cores = os.cpu_count() or 1
    if threads is not None and threads > _THREADS_PER_CORE * cores:
        raise click.BadParameter(f"{threads} threads are too many for {cores} cores; at most {_THREADS_PER_CORE} each")
    return threads


@click.command(name="bench", cls=Verb, short_help="Measure the latency of runtimes.")
@click.argument("runtime_texts", nargs=-1, required=True, metavar="RUNTIME[@PRECISION][@BACKEND]...")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per call.")
@click.option(
    "--size",
    type=height_and_width,
    metavar="HxW",
    help="Height and width of the images.  [default: 512x512, or the artefact's fixed size]",
)
@click.option("--images", type=PATH, help="Folder of images to use, resized to --size.  [default: random noise]")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=_as_many_as_help,
    help="CPU threads.  [default: the library's choice]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1, max=10_000_000),
    help="Timed iterations for each of `session` and `array`.  [default: as many as fit into 5 seconds]",
)
@click.option("--last", is_flag=True, help="For a run: use the last network, not the best one.")
@precision_option
@backend_option
@device_option
@timeout_option
@json_option
def command(
    runtime_texts: tuple[str, ...],
    batch: int,
    size: tuple[int, int] | None,
    images: Path | None,
    threads: int | None,
    runs: int | None,
    last: bool,
    precision: str | None,
    backend: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the latency of RUNTIME, after a warm-up until the latency is stable.

    Two latencies are reported. `session` is the computation alone, with inputs already on the device;
    normalisation, resizing, upsampling and argmax are part of the graph. `array` is what a program waits for: from
    uint8 images in memory to uint8 class maps in memory. Neither includes reading and decoding files. For a server
    both are whole requests. Images per second are computed from the mean.

    RUNTIME is a run folder, a bundle folder, an .onnx or .engine file, or a model on a server:
    http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL. For a bundle, @ selects a precision and a backend:
    bundles/mine@int8, bundles/mine@bf16@openvino; --precision and --backend apply to every RUNTIME without an @.
    Several RUNTIMEs are measured alternately, so that their ratios are valid on a noisy machine. Peak memory is
    that of this process since it started, including libraries and all RUNTIMEs.

    \b
    protoseg bench bundles/mine --size 360x480
    protoseg bench bundles/mine bundles/mine@int8 bundles/mine@bf16@openvino --size 512 --threads 2
    protoseg bench runs/mine bundles/mine --size 360x480 --threads 2
    protoseg bench bundles/mine --images photos --batch 8 --json | jq .latency_p50_ms
    """
    from protoseg_deploy.benchmarking.inputs import read_batch
    from protoseg_deploy.benchmarking.latency import measure_interleaved

    arguments = [runtime_argument(text, precision, backend) for text in runtime_texts]
    which = "last" if last else "best"
    runtimes = [argument.open(device=device, threads=threads, which=which) for argument in arguments]
    _note_doubts(runtime_texts, runtimes)
    if images is not None:
        size = size or next((runtime.info.fixed_size for runtime in runtimes if runtime.info.fixed_size), None)
    pictures = None if images is None else read_batch(images, batch, runtimes[0].info.reading, size)
    reports = measure_interleaved(runtimes, batch=batch, size=size, runs=runs, images=pictures)
    _note_unstable(runtime_texts, reports)
    if as_json:
        documents = [
            {**report.to_dict(), **describe_runtime(report.info), "runtime": text}
            for text, report in zip(runtime_texts, reports, strict=True)
        ]
        print_json(documents[0] if len(reports) == 1 else _comparison(runtime_texts, reports, documents))
        return
    for text, report in zip(runtime_texts, reports, strict=True):
        _print_card(text, report)
    if len(reports) > 1:
        _print_ratios(runtime_texts, reports)
    _print_machine(reports[0].machine)


def _note_doubts(texts: tuple[str, ...], runtimes: "Sequence[Runtime]") -> None:
    """Say what speaks against taking a latency for that of the network on its hardware."""
    for text, runtime in zip(texts, runtimes, strict=True):
        note_verification(runtime.info)
        emulated = runtime.info.emulated
        if emulated:
            note(f"{text}: {emulated}. Its latency here says nothing about hardware that has the type.")


def _note_unstable(texts: tuple[str, ...], reports: "Sequence[LatencyReport]") -> None:
    for text, report in zip(texts, reports, strict=True):
        for boundary, stats in (("session", report.session), ("array", report.array)):
            if stats.unstable:
                why = f"varies by {stats.variation_percent:.0f} %" if stats.settled else "did not stabilise in warm-up"
                note(f"{text}: unstable: the {boundary} latency {why}; is the machine busy?")


def _comparison(
    texts: tuple[str, ...], reports: "list[LatencyReport]", documents: list[dict[str, object]]
) -> dict[str, object]:
    first = reports[0]
    return {
        "runtimes": documents,
        "ratios": [
            {
                "runtime": text,
                "against": texts[0],
                "session_p50_ratio": report.session.p50_ms / first.session.p50_ms,
                "array_p50_ratio": report.array.p50_ms / first.array.p50_ms,
            }
            for text, report in zip(texts[1:], reports[1:], strict=True)
        ],
    }


def _print_ratios(texts: tuple[str, ...], reports: "Sequence[LatencyReport]") -> None:
    first = reports[0]
    print_table(
        ["p50 latency against the first", "session", "array"],
        [
            (
                text,
                f"{report.session.p50_ms / first.session.p50_ms:.2f}x",
                f"{report.array.p50_ms / first.array.p50_ms:.2f}x",
            )
            for text, report in zip(texts, reports, strict=True)
        ],
    )


def _print_machine(machine: "Machine") -> None:
    click.echo(
        f"{machine.gpu + ', ' if machine.gpu else ''}{machine.cpu}, {machine.physical_cores} cores "
        f"({machine.usable_cores} of {machine.logical_cores} logical ones usable), {machine.memory_gib} GiB, "
        f"load {machine.load_average_1min}\n{machine.os}, Python {machine.python}, "
        + ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    )


def _print_card(text: str, report: "LatencyReport") -> None:
    info = report.info
    session, array = report.session, report.array
    rows = [
        ("p50 latency (ms)", f"{session.p50_ms:.2f}", f"{array.p50_ms:.2f}"),
        ("p90 latency (ms)", f"{session.p90_ms:.2f}", f"{array.p90_ms:.2f}"),
        ("p99 latency (ms)", f"{session.p99_ms:.2f}", f"{array.p99_ms:.2f}"),
        ("mean latency (ms)", f"{session.mean_ms:.2f}", f"{array.mean_ms:.2f}"),
        ("min latency (ms)", f"{session.min_ms:.2f}", f"{array.min_ms:.2f}"),
        ("standard deviation (ms)", f"{session.std_ms:.2f}", f"{array.std_ms:.2f}"),
        ("images per second", f"{session.images_per_second:.1f}", f"{array.images_per_second:.1f}"),
        ("timed iterations", session.runs, array.runs),
        ("warm-up runs", session.warmup_runs, array.warmup_runs),
    ]
    print_table(["", "session", "array"], rows, title=f"{text} ({info.kind}, {info.precision}, {info.device})")
    source = "random noise" if report.input == "random" else "real images"
    threads = f", {info.threads} threads" if info.threads else ""
    gpu = f", GPU memory in use {report.gpu_memory_used_mib} MiB" if report.gpu_memory_used_mib is not None else ""
    click.echo(
        f"{info.backend}{threads}; {report.batch} x {report.height}x{report.width} px of {source}\n"
        f"{info.parameters / 1e6:.2f} M parameters, file {info.file_bytes / 1e6:.2f} MB, "
        f"process peak memory {report.process_peak_memory_mib} MiB{gpu}\n"
    )
