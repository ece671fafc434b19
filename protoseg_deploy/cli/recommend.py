"""``protoseg recommend``: which artefact meets a target."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    device_option,
    height_and_width,
    json_option,
    print_json,
    print_table,
    runtime_argument,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.benchmarking.recommending import Recommendation
    from protoseg_deploy.benchmarking.rows import MeasuredRow


@click.command(name="recommend", cls=Verb, short_help="Choose the artefact that meets a target.")
@click.argument("runtime_texts", nargs=-1, metavar="[RUNTIME]...")
@click.option("--target", required=True, help='Conditions, with commas: "p99<20ms, size<5MB, miou>60".')
@click.option("--on", "measured_files", type=PATH, multiple=True, help="Output of bench --json to choose from.")
@click.option("--images", type=PATH, help="To measure now: folder of images ...")
@click.option("--masks", type=PATH, help="... and of their masks.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option("--size", type=height_and_width, metavar="HxW", help="Size of the timed images.  [default: the first's]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: the library's choice]")
@device_option
@timeout_option
@json_option
def command(
    runtime_texts: tuple[str, ...],
    target: str,
    measured_files: tuple[Path, ...],
    as_json: bool,
    **measuring: Any,
) -> None:
    """Choose among measured artefacts the one with the best mIoU that meets --target, and say why not the others.

    With --on, from earlier measurements, all or those of the named RUNTIMEs. Without, every RUNTIME is measured now, a
    bundle in each of its precisions, which needs --images and --masks. Nothing is estimated: rows that are not steady,
    without mIoU, or whose artefact failed its verification are ruled out.

    Targets are p50, p90, p95, p99 and mean (ms or s), size (MB), throughput (images/s), energy (J) and miou (%).
    Latencies are those of the `arrays` boundary of `protoseg bench` (servers: `request`). Exit code 1 if nothing meets
    the target.

    \b
    protoseg bench bundles/mine bundles/mine@int8 --images val/images --masks val/masks --json > bench.json
    protoseg recommend --target "p99<20ms" --on bench.json
    protoseg recommend bundles/mine bundles/small --target "p95<10ms, size<2MB" --images val/images --masks val/masks
    """
    from protoseg_deploy.benchmarking.recommending import check_comparable, parse_targets, recommend

    targets = parse_targets(target)
    rows = _read(measured_files, runtime_texts) if measured_files else _measure(runtime_texts, **measuring)
    check_comparable(rows)
    found = recommend(rows, targets)
    if as_json:
        print_json(_document(found, target))
    else:
        _show(found, target)
    if found.best is None:
        click.get_current_context().exit(1)


def _read(files: tuple[Path, ...], texts: tuple[str, ...]) -> "list[MeasuredRow]":
    from protoseg_deploy.benchmarking.rows import read_rows
    from protoseg_deploy.errors import UsageError

    rows = [row for file in files for row in read_rows(file, "--on")]
    for text in texts:
        if not any(_is_of(row, text) for row in rows):
            there = ", ".join(dict.fromkeys(row.runtime for row in rows))
            raise UsageError(f"{text} is in none of the files of --on: they have {there}")
    return [row for row in rows if not texts or any(_is_of(row, text) for text in texts)]


def _is_of(row: "MeasuredRow", text: str) -> bool:
    return row.runtime == text or row.runtime.startswith(f"{text}@")


def _measure(
    texts: tuple[str, ...],
    images: Path | None,
    masks: Path | None,
    mask_template: str,
    size: tuple[int, int] | None,
    threads: int | None,
    device: str,
) -> "list[MeasuredRow]":
    from protoseg_deploy.cli.bench_measuring import judged, judging_samples, measured, opened
    from protoseg_deploy.cli.bench_output import note_unsteady
    from protoseg_deploy.errors import UsageError

    if not texts or images is None or masks is None:
        raise UsageError(
            "nothing to choose from", "Give --on FILE of bench --json, or RUNTIMEs with --images and --masks."
        )
    samples = judging_samples(images, masks, mask_template)
    arguments = [runtime_argument(one, None, None) for text in texts for one in _precisions(text)]
    every = [opened(argument, device=device, which="best", threads=threads) for argument in arguments]
    rows = measured(every, images, size=size)
    accuracies = judged([one.runtime for one in every], samples, quiet=False)
    rows = [replace(row, accuracy=accuracy) for row, accuracy in zip(rows, accuracies, strict=True)]
    note_unsteady(rows)
    return [row.measured() for row in rows]


def _precisions(text: str) -> list[str]:
    """A bundle in each precision it has; anything else as it is."""
    from protoseg_deploy.bundles.bundle import Bundle
    from protoseg_deploy.bundles.manifest import MANIFEST_FILE

    folder = Path(text)
    if not (folder / MANIFEST_FILE).is_file():
        return [text]
    return [f"{text}@{precision}" for precision in Bundle.open(folder).manifest.graphs]


def _show(found: "Recommendation", target: str) -> None:
    if found.best is None:
        click.echo(f"nothing meets {target}")
    else:
        click.echo(f"{found.best.runtime}: {found.best.miou_percent:.2f} % mIoU, {_latencies(found.best)}")
    if found.others:
        print_table(
            ["meets the target, too", "mIoU %", "p50 (ms)", "p99 (ms)", "MB"], [_cells(row) for row in found.others]
        )
    for row in found.close:
        click.echo(f"{row.runtime}: its mIoU is within the 95 % interval of the best one: other images may prefer it")
    for row, reason in found.ruled_out:
        click.echo(f"ruled out: {row.runtime}: {reason}")


def _latencies(row: "MeasuredRow") -> str:
    size = f"{row.height}x{row.width}"
    energy = f", {row.joules_per_image:.4g} J/image" if row.joules_per_image is not None else ""
    latencies = f"p50 {row.latency_p50_ms:.2f} ms, p99 {row.latency_p99_ms:.2f} ms at {size}"
    return f"{latencies}, {row.file_bytes / 1e6:.2f} MB{energy}"


def _cells(row: "MeasuredRow") -> list[str]:
    latencies = (f"{row.latency_p50_ms:.2f}", f"{row.latency_p99_ms:.2f}")
    return [row.runtime, f"{row.miou_percent:.2f}", *latencies, f"{row.file_bytes / 1e6:.2f}"]


def _document(found: "Recommendation", target: str) -> dict[str, object]:
    def dump(rows: "Sequence[MeasuredRow]") -> list[dict[str, object]]:
        return [row.model_dump(mode="json") for row in rows]

    return {
        "target": target,
        "best": found.best.model_dump(mode="json") if found.best else None,
        "others": dump(found.others),
        "close": [row.runtime for row in found.close],
        "ruled_out": [{"runtime": row.runtime, "reason": reason} for row, reason in found.ruled_out],
    }
