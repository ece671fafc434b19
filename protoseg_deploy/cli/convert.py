"""``protoseg convert``: annotations of a labelling tool to masks."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.choices import ANNOTATION_FORMATS
from protoseg_deploy.cli.arguments import PATH, comma_list, json_option, note, print_json, print_table, progress_bar
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from protoseg_deploy.annotations.converting import Conversion
    from protoseg_deploy.annotations.shapes import DeclaredClass
    from protoseg_deploy.recipe.types import ExifPolicy


@click.command(name="convert", cls=Verb, short_help="Convert annotations of labelling tools to masks.")
@click.argument("source", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder for masks, classes, list and report.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(ANNOTATION_FORMATS),
    metavar="FORMAT",
    help=f"One of {', '.join(ANNOTATION_FORMATS)}.  [default: as found]",
)
@click.option("--images", type=PATH, help="Folder of the images.  [default: in or beside SOURCE]")
@click.option(
    "--classes",
    metavar="A,B|FILE",
    help="Classes in index order, or a file of them (JSON, YAML, CSV, text), with colours where masks show colours.",
)
@click.option("--ignore", "ignored", multiple=True, metavar="A,B", help="Labels that become 255 (ignored).")
@click.option(
    "--unlabeled",
    metavar="NAME|ignore",
    help="Class of pixels that no shape covers.  [default: background; ignore for Cityscapes]",
)
@click.option(
    "--priority", multiple=True, metavar="A,B", help="Draw these classes over all others, later over earlier."
)
@click.option(
    "--exif",
    type=click.Choice(["apply", "ignore"]),
    default="apply",
    show_default=True,
    help="Whether annotations were drawn on images turned by their EXIF orientation, as data.exif.",
)
@click.option(
    "--crowd",
    type=click.Choice(["ignore", "class"]),
    default="ignore",
    show_default=True,
    help="COCO: whether crowds become 255 or their class. CVAT marks all masks as crowds in its COCO export.",
)
@click.option("--skip-existing", is_flag=True, help="Keep masks made from the same annotations with the same options.")
@click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Processes; 0: this one.  [default: by cores]")
@json_option
def command(
    source: Path,
    out: Path,
    format_name: str | None,
    images: Path | None,
    classes: str | None,
    ignored: tuple[str, ...],
    unlabeled: str | None,
    priority: tuple[str, ...],
    exif: "ExifPolicy",
    crowd: str,
    skip_existing: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Convert the annotations SOURCE, a file or folder, to masks of class indices.

    OUT/masks gets a PNG for every annotated image, with the same subfolders; 255 is ignored. OUT/classes.json holds
    names and colours for data.classes, OUT/labeled.txt pairs images and masks for data.labeled.list, and
    OUT/report.json lists every record that was bad, skipped or changed, with file and reason. Images are not copied.

    Formats: COCO JSON, LabelMe, CVAT for images 1.1 (XML), Label Studio JSON, YOLO segmentation, Supervisely,
    Cityscapes polygons, Pascal VOC masks, colour masks with a table of colours, and one binary mask per class.

    Where shapes overlap, later ones lie over earlier ones in formats with an order (CVAT: first by z-order; LabelMe,
    Label Studio, Supervisely, Cityscapes), and smaller ones over larger ones in the others (COCO, YOLO, binary masks).
    --priority road,car draws road over all others and car over road; `ignore` in it stands for ignored regions. Crowds
    lie below everything unless it is there.

    Records that cannot be used do not stop the others; the exit code is 1. After an interruption, repeat the command
    with --skip-existing.

    \b
    protoseg convert instances.json --images photos --out labels
    protoseg convert cvat-export --out labels --priority road,car,person
    protoseg convert photos --format labelme --out labels --classes road,car
    protoseg convert masks --format color-masks --classes colors.csv --out labels
    protoseg convert yolo-export --out labels --unlabeled ignore --skip-existing
    """
    from protoseg_deploy.annotations.converting import Choices, convert

    choices = Choices(
        format_name,
        images,
        _classes(classes) if classes else None,
        tuple(comma_list(ignored)),
        unlabeled,
        tuple(comma_list(priority)),
        exif,
        skip_existing,
        crowd == "class",
        workers,
    )
    try:
        with progress_bar("converting", hidden=as_json) as progress:
            result = convert(source, out, choices, progress)
    except KeyboardInterrupt:
        note("interrupted; masks made so far are kept: the same command with --skip-existing resumes from there.")
        raise
    if as_json:
        print_json(_document(out, result))
    else:
        _show(out, result, exif)
    _require_good(out, result)


def _classes(text: str) -> "tuple[DeclaredClass, ...]":
    from protoseg_deploy.annotations.class_files import read_classes
    from protoseg_deploy.annotations.shapes import DeclaredClass
    from protoseg_deploy.errors import UsageError

    path = Path(text)
    if os.path.isfile(path):  # noqa: PTH113  Path.is_file raises where a list of names is too long for a path
        return read_classes(path)
    if path.suffix.lower() in (".json", ".yaml", ".yml", ".csv", ".txt"):
        raise UsageError(f"--classes: no such file: {path}", "Give a file, or names with commas in between.")
    names = comma_list([text])
    if not all(names):
        raise UsageError("--classes: an empty name", "Give names with commas in between, such as road,car.")
    return tuple(DeclaredClass(name) for name in names)


def _document(out: Path, result: "Conversion") -> dict[str, object]:
    return {
        "out": str(out),
        "format": result.format,
        "masks": result.masks,
        "skipped_existing": result.skipped,
        "overlap_order": result.order,
        "masks_with_overlaps": result.overlaps,
        "classes": list(result.plan.names),
        "class_pixels": {name: result.class_pixels.get(index, 0) for index, name in enumerate(result.plan.names)},
        "ignored_pixels": result.class_pixels.get(255, 0),
        "records": {kind: result.records.get(kind, 0) for kind in ("bad", "skipped", "changed")},
        "first_bad": [
            {"file": one.file, "record": one.record, "image": one.image, "reason": one.reason}
            for one in result.first_bad
        ],
        "seconds": result.seconds,
    }


def _show(out: Path, result: "Conversion", exif: str) -> None:
    pixels = max(1, sum(result.class_pixels.values()))
    rows = [(f"{index} {name}", index) for index, name in enumerate(result.plan.names)] + [("255 ignored", 255)]
    print_table(
        ["class", "masks", "pixels %"],
        [
            [name, result.class_images.get(index, 0), f"{100 * result.class_pixels.get(index, 0) / pixels:.2f}"]
            for name, index in rows
        ],
        title=f"{result.format}: {_masks(result.masks)} in {result.seconds:.1f} s"
        + (f" ({result.skipped:,} skipped, already made)" if result.skipped else ""),
    )
    if result.overlaps:
        order = "later shapes" if result.order == "file" else "smaller shapes"
        click.echo(f"In {_masks(result.overlaps)} classes overlap: {order} were drawn on top; --priority changes that.")
    if any(result.records.values()):
        counts = ", ".join(f"{result.records.get(kind, 0):,} {kind}" for kind in ("bad", "skipped", "changed"))
        click.echo(f"Records: {counts}; {out / 'report.json'} lists them with their reasons.")
    if result.masks:
        click.echo("Next, in your recipe (`protoseg recipe show inhouse-template --source` prints one):")
        click.echo(_fragment(out, exif))


def _masks(count: int) -> str:
    return f"{count:,} {'mask' if count == 1 else 'masks'}"


def _fragment(out: Path, exif: str) -> str:
    lines = [
        "data:",
        f"  root: {json.dumps(str(out.absolute()), ensure_ascii=False)}",
        "  labeled: {list: labeled.txt}",
        "  classes: classes.json",
    ]
    return "\n".join([*lines, "  exif: ignore"] if exif == "ignore" else lines)


def _require_good(out: Path, result: "Conversion") -> None:
    """Fail where records were bad.

    Raises:
        DataError: the first are named.
    """
    from protoseg_deploy.errors import DataError

    bad = result.records.get("bad", 0)
    if not bad:
        return
    lines = [
        ": ".join(filter(None, [problem.file, problem.image, problem.record, problem.reason]))
        for problem in result.first_bad
    ]
    more = [f"… and {bad - len(lines)} more"] if bad > len(lines) else []
    raise DataError(
        f"{bad:,} {'record' if bad == 1 else 'records'} could not be used:",
        [*lines, *more],
        f"{out / 'report.json'} lists all of them. "
        + ("Masks show what the other records say." if result.masks else "--images DIR names the folder of images."),
        shown=len(lines) + 1,
    )
