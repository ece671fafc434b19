"""``protoseg report``: runs, bundles and measured latencies as one page that opens offline."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, device_option, json_option, note, print_json, progress_bar
from protoseg_deploy.cli.verb import Verb


@click.command(name="report", cls=Verb, short_help="Show runs, bundles and latencies as one HTML file.")
@click.argument("paths", metavar="RUN|BUNDLE|FILE...", type=PATH, nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="HTML file to write; an earlier report is replaced.")
@click.option("--card", type=PATH, help="Also write the model card of the bundle, with the latencies measured of it.")
@click.option("--title", help="Title of the page.  [default: names of what it is about]")
@click.option("--images", type=PATH, help="Judge networks on these images.  [default: the run's validation images]")
@click.option("--masks", type=PATH, help="Folder of the masks of --images.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Judge on at most this many images, evenly spaced.",
)
@click.option("--no-images", is_flag=True, help="Read no image: no panels, no confusion, no data facts.")
@device_option
@json_option
def command(
    paths: tuple[Path, ...],
    out: Path,
    card: Path | None,
    title: str | None,
    images: Path | None,
    masks: Path | None,
    mask_template: str,
    count: int,
    no_images: bool,
    device: str,
    as_json: bool,
) -> None:
    """Write one HTML file about run folders, bundle folders, and files of `protoseg bench --json`.

    It shows learning curves, IoU by class, confusion, the worst, median and best images, prototypes with their nearest
    patches, verdicts of bundles, latency against accuracy, data facts, recipe and digests. Several runs and bundles
    are compared side by side. The file has at most 5 MB, opens offline, and asks nobody for anything. What is read
    is not changed; a run may still be in training.

    \b
    protoseg report runs/mine --out report.html
    protoseg report runs/teacher runs/student bundles/student --out report.html
    protoseg report runs/mine bench.json --out report.html --title "Week 12"
    protoseg report bundles/mine --images photos --masks truth --out report.html
    protoseg report runs/mine bundles/mine bench.json --out report.html \\
        --card bundles/mine/MODEL_CARD.md
    protoseg report runs/mine --no-images --out report.html
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.reporting.making import ReportOptions, make_report

    if masks is not None and images is None:
        raise UsageError("--masks without --images", "Give the folder of the images too.")
    if no_images and images is not None:
        raise UsageError("--no-images and --images contradict each other")
    options = ReportOptions(images, masks, mask_template, count, device, not no_images, title, card)
    with progress_bar("looking at images", hidden=as_json or no_images) as show:
        made = make_report(paths, out, options, show)
    findings = made.findings
    if as_json:
        print_json(
            {
                "report": str(made.path),
                "card": card and str(card),
                "bytes": made.bytes,
                "runs": [str(run.folder) for run in findings.runs],
                "bundles": [str(bundle.folder) for bundle in findings.bundles],
                "bench_rows": len(findings.bench.rows),
                "miou_percent": {name: findings.miou_of(name) for name in findings.names},
                "iou_percent": {name: findings.iou_of(name) for name in findings.names},
                "judged_images": {name: judged.image_count for name, judged in findings.judgements.items()},
                "notes": findings.notes,
            }
        )
        return
    click.echo(f"{made.path}: {made.bytes / 1e6:.1f} MB")
    if card is not None:
        click.echo(f"{card}: the model card of {findings.bundles[0].name}")
    for line in findings.notes:
        note(line)
