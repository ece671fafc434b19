"""``protoseg evaluate``: how well a run, a bundle or an ONNX file segments."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    backend_option,
    describe_runtime,
    device_option,
    json_option,
    note_verification,
    precision_option,
    print_json,
    print_table,
    progress_bar,
    runtime_argument,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.data import Sample
    from protoseg_deploy.evaluation.evaluate import Evaluation
    from protoseg_deploy.models import Windows
    from protoseg_deploy.recipe import MaskReading
    from protoseg_deploy.runtimes.base import RuntimeInfo


@click.command(name="evaluate", cls=Verb, short_help="Measure IoU and accuracy of a runtime.")
@click.argument("runtime_text", metavar="RUNTIME")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--recipe", help="Evaluate on the validation images of this recipe: a shipped name or a YAML file.")
@click.option("--images", type=PATH, help="Folder of images to evaluate on instead; needs --masks.")
@click.option("--masks", type=PATH, help="Folder of the masks of --images, read as in training.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Images per call.  [default: 1 on a CPU, 4 on a GPU; with windows, train.eval_batch of the run]",
)
@click.option(
    "--window",
    type=click.IntRange(min=16),
    metavar="N",
    help="For a run: average the logits of sliding windows of side N.  [default: train.eval_window of the run]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stride of the windows.  [default: train.eval_stride of the run, or two thirds of --window]",
)
@click.option("--whole", is_flag=True, help="Evaluate whole images, whatever the recipe says.")
@click.option("--last", is_flag=True, help="For a run: use the last network, not the best one.")
@precision_option
@backend_option
@device_option
@timeout_option
@json_option
def command(
    runtime_text: str,
    overrides: tuple[str, ...],
    recipe: str | None,
    images: Path | None,
    masks: Path | None,
    mask_template: str,
    batch: int | None,
    window: int | None,
    stride: int | None,
    whole: bool,
    last: bool,
    precision: str | None,
    backend: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure the accuracy of RUNTIME: IoU per class, mean IoU, pixel accuracy.

    RUNTIME is a run folder, a bundle folder, an .onnx or .engine file, or a model on a server:
    http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL. Class maps are compared with the masks pixel by pixel at the
    size of the masks. Classes that occur in neither are excluded from the mean. If the artefact has a fixed input
    shape, images of other sizes are evaluated in overlapping tiles.

    A run whose recipe sets train.eval_window is evaluated as in training: in overlapping windows (pixels at
    data.input_scale) whose logits are averaged. Exported graphs process whole images: use --whole to compare with them.

    \b
    protoseg evaluate runs/mine --recipe mine.yaml
    protoseg evaluate bundles/mine --recipe mine.yaml data.root=/data/other
    protoseg evaluate bundles/mine --recipe mine.yaml --precision int8
    protoseg evaluate bundles/mine/model.onnx --images photos --masks truth --mask-template '{stem}_mask.png'
    protoseg evaluate runs/mine --last --recipe mine.yaml --json | jq .miou_percent
    protoseg evaluate runs/mine --recipe mine.yaml --window 769 --stride 513 --batch 4
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.evaluation.evaluate import evaluate

    if (recipe is None) == (images is None and masks is None):
        raise UsageError("give either --recipe, or --images and --masks: what to evaluate on")
    if recipe is None and overrides:
        raise UsageError(f"{overrides[0]}: KEY=VALUE changes a recipe; there is no --recipe")
    argument = runtime_argument(runtime_text, precision, backend)
    windows = _windows(argument.path, window, stride, batch, whole)
    runtime = argument.open(device=device, which="last" if last else "best", windows=windows)
    note_verification(runtime.info)
    samples, reading = _judged_by(runtime.info, recipe, overrides, images, masks, mask_template)
    with progress_bar("evaluating", hidden=as_json) as progress:
        result = evaluate(
            runtime,
            samples,
            masks=reading,
            batch=1 if windows else batch,
            progress=progress,
        )
    info = runtime.info
    if as_json:
        cut = {"window_px": windows and windows.side, "stride_px": windows and windows.stride}
        print_json({**describe_runtime(info), **cut, **result.to_dict()})
        return
    _show(info, result, windows)


def _judged_by(
    info: "RuntimeInfo",
    recipe: str | None,
    overrides: tuple[str, ...],
    images: Path | None,
    masks: Path | None,
    mask_template: str,
) -> "tuple[Sequence[Sample], MaskReading]":
    """Images with masks, and how the masks are read: of a recipe, or of folders."""
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.evaluation.evaluate import check_same_classes
    from protoseg_deploy.evaluation.samples import folder_samples, masks_of, recipe_samples
    from protoseg_deploy.recipe import class_table, load_recipe, mask_reading

    if recipe is not None:
        data = load_recipe(recipe, overrides).data
        check_same_classes(info, class_table(data), f"recipe {recipe}")
        samples = recipe_samples(data)
        reading = mask_reading(data).model_copy(update={"exif": info.reading.exif})
    else:
        if images is None or masks is None:
            raise UsageError("--images and --masks go together")
        samples = folder_samples(images, masks, mask_template)
        reading = masks_of(info)
    return samples, reading


def _windows(
    path: Path | str, window: int | None, stride: int | None, batch: int | None, whole: bool
) -> "Windows | None":
    """What the options say; without any, what the recipe of a run says."""
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.models import Windows, default_stride
    from protoseg_deploy.runtimes.opening import is_run
    from protoseg_deploy.runtimes.pytorch import recipe_windows

    if whole:
        if window is not None or stride is not None:
            raise UsageError("--whole means no windows: leave --window and --stride out, or --whole")
        return None
    windows = recipe_windows(path) if isinstance(path, Path) and is_run(path) else None
    if window is not None:
        windows = Windows(window, stride or default_stride(window), windows.batch if windows else 1)
    elif stride is not None:
        if windows is None:
            raise UsageError(f"--stride {stride} goes with --window: {path} names no train.eval_window")
        windows = replace(windows, stride=stride)
    return replace(windows, batch=batch) if windows is not None and batch is not None else windows


def _show(info: "RuntimeInfo", result: "Evaluation", windows: "Windows | None") -> None:
    total = max(1, sum(result.truth_pixels))
    rows: list[tuple[object, ...]] = [
        (f"{index} {name}", "–" if iou != iou else f"{iou:.2f}", f"{100 * pixels / total:.2f}")
        for index, (name, iou, pixels) in enumerate(
            zip(result.class_names, result.iou_percent, result.truth_pixels, strict=True)
        )
    ]
    rows.append(("mean", f"{result.miou_percent:.2f}", ""))
    print_table(
        ["class", "IoU %", "of truth %"], rows, title=f"{info.path} ({info.kind}, {info.precision}, {info.device})"
    )
    click.echo(
        f"pixel accuracy {result.accuracy_percent:.2f} %, {result.images} images in {result.seconds:.1f} s "
        f"({result.images / result.seconds:.1f} images/s with reading)"
    )
    if windows is not None:
        click.echo(f"in windows of {windows.side} pixels every {windows.stride}, their logits averaged")
    elif info.kind == "pytorch":
        click.echo("on whole images")
    if result.tiled_images:
        click.echo(
            f"{result.tiled_images} images do not have the input size of this artefact and were evaluated in tiles"
        )
