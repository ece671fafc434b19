"""``protoseg predict``: class maps of images, as files."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import (
    LOCATION,
    backend_option,
    describe_runtime,
    device_option,
    height_and_width,
    json_option,
    note,
    note_fixed_size,
    note_verification,
    precision_option,
    print_json,
    progress_bar,
    runtime_argument,
    timeout_option,
)
from protoseg_deploy.cli.pre_annotating import AnnotationOptions, annotation_options, pre_annotate
from protoseg_deploy.cli.predict_shards import ShardOptions, predict_in_shards, shard_options
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from protoseg_deploy.cli.arguments import RuntimeArgument
    from protoseg_deploy.evaluation.prediction import Prediction
    from protoseg_deploy.runtimes.base import RuntimeInfo


@click.command(name="predict", cls=Verb, short_help="Segment images or folders of images.")
@click.argument("runtime_text", metavar="RUNTIME")
@click.argument("images", nargs=-1, metavar="IMAGES...", type=LOCATION)
@click.option(
    "--images", "more_images", type=LOCATION, multiple=True, help="Like IMAGES: a file or folder; can be repeated."
)
@click.option("--out", type=LOCATION, required=True, help="Folder for the results; created if missing.")
@click.option(
    "--tile", type=height_and_width, metavar="N|HxW", help="Predict in overlapping tiles of this size, for huge images."
)
@click.option(
    "--overlap", type=click.IntRange(min=0), help="Overlap of the tiles, in pixels.  [default: a quarter of the tile]"
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Tiles per call.")
@click.option(
    "--skip-existing",
    is_flag=True,
    help="Skip images already predicted from the same file, by the same artefact and with the same options.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 256),
    default=8,
    show_default=True,
    help="Images under way at a time, where RUNTIME is a server.",
)
@click.option("--last", is_flag=True, help="For a run: use the last network, not the best one.")
@annotation_options
@shard_options
@precision_option
@backend_option
@device_option
@timeout_option
@json_option
def command(
    runtime_text: str,
    images: tuple[str, ...],
    more_images: tuple[str, ...],
    out: str,
    tile: tuple[int, int] | None,
    overlap: int | None,
    batch: int,
    skip_existing: bool,
    connections: int,
    last: bool,
    shard_options: ShardOptions,
    annotation_options: AnnotationOptions,
    precision: str | None,
    backend: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Segment IMAGES (files and folders, of any size) with RUNTIME.

    RUNTIME is a run folder, a bundle folder, an .onnx or .engine file, or a model on a server:
    http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL. For every image, three PNGs of its size are written: OUT/index
    (class indices), OUT/color (class colours) and OUT/overlay (colours over the image). Subfolders are kept.

    Images that cannot be read or predicted do not stop the others. They are named at the end and listed in
    OUT/failures.jsonl, and the exit code is 1. Results never overwrite images. PNGs are written atomically: after an
    interruption, or to add new images, repeat the command with --skip-existing.

    Overlapping tiles are stitched in the middle of their overlap, so that no result comes from the border of a tile. An
    artefact with a fixed input shape always uses tiles of that size; images are never resized.

    --format also writes the regions of the class maps to OUT/annotations, as pre-annotations that CVAT, LabelMe, Label
    Studio and COCO readers load, to be corrected there.

    With --shards, --manifest, --pack or --engine, for very many images: worker processes or a Ray cluster write a
    palette PNG of class indices for every image (OUT/index), and a Parquet file with a row per image for every shard
    (OUT/results). The same command resumes. Images and OUT may be URLs such as s3://bucket/images.

    \b
    protoseg predict runs/mine photo.jpg --out predicted
    protoseg predict bundles/mine photos more/photos last.tif --out predicted
    protoseg predict bundles/mine photos --out predicted --skip-existing
    protoseg predict bundles/mine orthophoto.tif --out predicted --tile 1024 --overlap 256 --batch 4
    protoseg predict bundles/mine photos --out predicted --precision int8
    protoseg predict bundles/mine photos --out predicted --precision bf16 --backend openvino
    protoseg predict bundles/mine photos --out predicted --format cvat --tolerance 1.5
    protoseg predict bundles/mine --images photos --out predicted --shards 1000
    protoseg predict bundles/mine --manifest photos.csv --out s3://bucket/predicted --pack --engine ray
    """
    inputs = (*images, *more_images)
    argument = runtime_argument(runtime_text, precision, backend)
    which = "last" if last else "best"
    if shard_options.is_given:
        if skip_existing:
            raise click.UsageError("--skip-existing does not apply here: the same command resumes by itself.")
        annotation_options.refuse_in_shards()
        predict_in_shards(argument, device, which, inputs, out, tile, overlap, batch, shard_options, as_json)
        return
    shard_options.refuse_alone(inputs, out)
    paths = [Path(given) for given in inputs]
    options = (tile, overlap, batch, skip_existing, connections)
    _predict(argument, device, which, paths, Path(out), *options, annotation_options, as_json)


def _predict(
    argument: "RuntimeArgument",
    device: str,
    which: str,
    images: list[Path],
    out: Path,
    tile: tuple[int, int] | None,
    overlap: int | None,
    batch: int,
    skip_existing: bool,
    connections: int,
    annotation_options: AnnotationOptions,
    as_json: bool,
) -> None:
    from protoseg_deploy.errors import DataError
    from protoseg_deploy.evaluation.prediction import predict_files
    from protoseg_deploy.evaluation.prediction_plan import FAILURES

    runtime = argument.open(device=device, which=which)
    info = runtime.info
    note_verification(info)
    note_fixed_size(info, tile)
    try:
        with progress_bar("predicting", hidden=as_json) as progress:
            result = predict_files(
                runtime,
                images,
                out,
                tile=tile,
                overlap=overlap,
                batch=batch,
                skip_existing=skip_existing,
                connections=connections if info.kind == "server" else 1,
                progress=progress,
            )
    except KeyboardInterrupt:
        note("interrupted; what is done is kept: the same command with --skip-existing resumes from there.")
        raise
    written = pre_annotate(annotation_options, info, out, result, hidden=as_json)
    if as_json:
        print_json({**_document(info, out, result), **({"annotations": written.as_document()} if written else {})})
    elif result.images:
        _show(out, result)
        if written:
            click.echo(written.text)
    for folder, unread in result.unread:
        note(f"{folder}: {unread.text}")
    if result.failed:
        total = len(result.failed) + len(result.images)
        verb = "read" if all(failed.kind == "unreadable" for failed in result.failed) else "predicted"
        raise DataError(
            f"{len(result.failed)} of {total} images could not be {verb}:",
            [failed.reason for failed in result.failed],
            f"{out / FAILURES} lists all of them.",
        )


def _document(info: "RuntimeInfo", out: Path, result: "Prediction") -> dict[str, object]:
    names = info.classes.names
    return {
        **describe_runtime(info),
        "out": str(out),
        "tile_px": result.tile,
        "overlap_px": result.overlap,
        "seconds": result.seconds,
        "images": [
            {
                "image": str(done.image),
                "index": str(done.index),
                "color": str(done.color),
                "overlay": str(done.overlay),
                "height": done.height,
                "width": done.width,
                "class_pixels": dict(zip(names, done.class_pixels, strict=True)),
                "skipped": done.is_skipped,
            }
            for done in result.images
        ],
        "failed": [
            {"image": str(failed.image), "kind": failed.kind, "reason": failed.reason} for failed in result.failed
        ],
        "unread": [{"folder": str(folder), "files": dict(unread.counts)} for folder, unread in result.unread],
    }


def _show(out: Path, result: "Prediction") -> None:
    number = len(result.images)
    skipped = sum(done.is_skipped for done in result.images)
    click.echo(
        f"{number} {'image' if number == 1 else 'images'} in {result.seconds:.1f} s"
        f"{f' ({skipped} skipped, already predicted)' if skipped else ''}: "
        f"{out / 'index'}, {out / 'color'}, {out / 'overlay'}"
    )
