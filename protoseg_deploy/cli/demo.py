"""``protoseg demo``: the whole path on an embedded data set."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, json_option, note, print_json, print_table
from protoseg_deploy.cli.verb import Verb


@click.command(name="demo", cls=Verb, short_help="Run the whole pipeline on embedded data, on a CPU.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--out", "folder", type=PATH, required=True, help="Folder for all output of the demo.")
@json_option
def command(overrides: tuple[str, ...], folder: Path, as_json: bool) -> None:
    """Train, distil, export, verify and benchmark on an embedded data set: no GPU, no download, a few minutes on a CPU.

    The data set consists of procedural aerial scenes: 14 labelled images that show only some appearances of each class,
    and 360 unlabelled ones that show all of them. The demo trains `supervised`, `fixmatch` and `prototype` for the same
    number of steps, distils `prototype` into a small network, exports it to ONNX and compares all of them. It prints
    the equivalent command of each stage. After an interruption, the same command resumes where it stopped.

    \b
    protoseg demo --out demo
    protoseg demo --out demo-long train.steps=2000
    """
    from dataclasses import asdict

    from protoseg_deploy.reporting import run_demo

    result = run_demo(folder, note, overrides=overrides)
    if as_json:
        print_json({"rows": [asdict(row) for row in result.rows], "panel": str(result.panel)})
        return
    print_table(
        ["", "mIoU %", "parameters", "file MB", "p50 (ms)", "training time (s)"],
        [
            (
                row.name,
                f"{row.miou_percent:.2f}",
                f"{row.parameters:,}",
                f"{row.file_bytes / 1e6:.2f}",
                f"{row.latency_p50_ms:.1f}",
                "–" if row.train_seconds is None else f"{row.train_seconds:.0f}",
            )
            for row in result.rows
        ],
    )
    click.echo(f"Pictures: {result.panel}   bundle: {result.bundle}   in all {result.seconds:.0f} s")
