"""``protoseg bench``: latency and memory of runs, bundles and ONNX files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    device_option,
    height_and_width,
    json_option,
    note,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from protoseg_deploy.benchmarking.latency import LatencyReport


@click.command(name="bench")
@click.argument("paths", nargs=-1, required=True, metavar="RUNTIME...", type=PATH)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per call.")
@click.option(
    "--size",
    type=height_and_width,
    metavar="HxW",
    help="Height and width of the images; 512x512, or the artefact's own, when absent.",
)
@click.option("--images", type=PATH, help="Folder of images to use, resized to --size; random noise when absent.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; the library's own choice when absent.")
@click.option(
    "--runs", type=click.IntRange(min=1), help="Counted calls at each boundary; 5 seconds' worth when absent."
)
@click.option("--last", is_flag=True, help="Of a run, the last network instead of the best one.")
@device_option
@json_option
def command(
    paths: tuple[Path, ...],
    batch: int,
    size: tuple[int, int] | None,
    images: Path | None,
    threads: int | None,
    runs: int | None,
    last: bool,
    device: str,
    as_json: bool,
) -> None:
    """Measure how fast RUNTIME is, after a warm-up until its latency stands still.

    Latency is given between two boundaries. `session` is the computation alone, inputs in place; the graph itself holds
    normalisation, resizing, upsampling and argmax. `array` is what a program waits for: uint8 images in memory to uint8
    class maps in memory. Neither holds reading and decoding files. Images per second follow from the mean.

    Several RUNTIMEs are measured in turns, so that the ratios hold on a machine that is not quiet.

    \b
    protoseg bench bundles/mine --size 360x480
    protoseg bench runs/mine bundles/mine --size 360x480 --threads 2
    protoseg bench bundles/mine --images photos --batch 8 --json | jq .latency_p50_ms
    """
    from protoseg_deploy.benchmarking.inputs import read_batch
    from protoseg_deploy.benchmarking.latency import measure_interleaved
    from protoseg_deploy.runtimes.opening import open_runtime

    which = "last" if last else "best"
    runtimes = [open_runtime(path, device=device, threads=threads, which=which) for path in paths]
    if images is not None:
        size = size or next((runtime.info.fixed_size for runtime in runtimes if runtime.info.fixed_size), None)
    pictures = None if images is None else read_batch(images, batch, size)
    reports = measure_interleaved(runtimes, batch=batch, size=size, runs=runs, images=pictures)
    first = reports[0]
    for report in reports:
        for boundary, stats in (("session", report.session), ("array", report.array)):
            if stats.unstable:
                why = f"varies by {stats.variation_percent:.0f} %" if stats.settled else "did not settle in the warm-up"
                note(f"{report.info.path}: unstable: the {boundary} latency {why}; is the machine busy?")
    if as_json:
        print_json(first.to_dict() if len(reports) == 1 else _comparison(reports))
        return
    for report in reports:
        _print_card(report)
    if len(reports) > 1:
        print_table(
            ["p50 latency against the first", "session", "array"],
            [
                (
                    report.info.path,
                    f"{report.session.p50_ms / first.session.p50_ms:.2f}x",
                    f"{report.array.p50_ms / first.array.p50_ms:.2f}x",
                )
                for report in reports
            ],
        )
    machine = first.machine
    click.echo(
        f"{machine.gpu + ', ' if machine.gpu else ''}{machine.cpu}, {machine.physical_cores} cores "
        f"({machine.usable_cores} of {machine.logical_cores} logical ones usable), {machine.memory_gib} GiB, "
        f"load {machine.load_average_1min}\n{machine.os}, Python {machine.python}, "
        + ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    )


def _comparison(reports: "list[LatencyReport]") -> dict[str, object]:
    first = reports[0]
    return {
        "runtimes": [report.to_dict() for report in reports],
        "ratios": [
            {
                "runtime": str(report.info.path),
                "against": str(first.info.path),
                "session_p50_ratio": report.session.p50_ms / first.session.p50_ms,
                "array_p50_ratio": report.array.p50_ms / first.array.p50_ms,
            }
            for report in reports[1:]
        ],
    }


def _print_card(report: "LatencyReport") -> None:
    info = report.info
    session, array = report.session, report.array
    rows = [
        ("latency p50 ms", f"{session.p50_ms:.2f}", f"{array.p50_ms:.2f}"),
        ("latency p90 ms", f"{session.p90_ms:.2f}", f"{array.p90_ms:.2f}"),
        ("latency p99 ms", f"{session.p99_ms:.2f}", f"{array.p99_ms:.2f}"),
        ("latency mean ms", f"{session.mean_ms:.2f}", f"{array.mean_ms:.2f}"),
        ("latency min ms", f"{session.min_ms:.2f}", f"{array.min_ms:.2f}"),
        ("standard deviation ms", f"{session.std_ms:.2f}", f"{array.std_ms:.2f}"),
        ("images per second", f"{session.images_per_second:.1f}", f"{array.images_per_second:.1f}"),
        ("counted runs", session.runs, array.runs),
        ("warm-up runs", session.warmup_runs, array.warmup_runs),
    ]
    print_table(["", "session", "array"], rows, title=f"{info.path} ({info.kind}, {info.precision}, {info.device})")
    source = "random noise" if report.input == "random" else "real images"
    gpu = f", GPU memory in use {report.gpu_memory_used_mib} MiB" if report.gpu_memory_used_mib is not None else ""
    click.echo(
        f"{info.backend}, {info.threads} threads; {report.batch} x {report.height}x{report.width} px of {source}\n"
        f"{info.parameters / 1e6:.2f} M parameters, file {info.file_bytes / 1e6:.2f} MB, "
        f"process peak memory {report.process_peak_memory_mib} MiB{gpu}\n"
    )
