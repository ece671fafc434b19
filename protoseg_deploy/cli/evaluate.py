"""``protoseg evaluate``: how well a run, a bundle or an ONNX file segments."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    backend_option,
    describe_runtime,
    device_option,
    json_option,
    precision_option,
    print_json,
    print_table,
    progress_bar,
    runtime_argument,
)


@click.command(name="evaluate")
@click.argument("runtime_text", metavar="RUNTIME")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--recipe", help="Judge by the validation images of this recipe: a shipped name or a YAML file.")
@click.option("--images", type=PATH, help="Folder of images to judge by instead; needs --masks.")
@click.option("--masks", type=PATH, help="Folder of their index masks.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Where a mask lies below --masks.")
@click.option("--batch", type=click.IntRange(min=1), help="Images per call; 1 on a CPU and 4 on a GPU when absent.")
@click.option("--last", is_flag=True, help="Of a run, the last network instead of the best one.")
@precision_option
@backend_option
@device_option
@json_option
def command(
    runtime_text: str,
    overrides: tuple[str, ...],
    recipe: str | None,
    images: Path | None,
    masks: Path | None,
    mask_template: str,
    batch: int | None,
    last: bool,
    precision: str | None,
    backend: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Measure how well RUNTIME segments: IoU by class, mean IoU, pixel accuracy.

    RUNTIME is a run folder, a bundle folder, an .onnx or an .engine file. Class maps are compared with the masks pixel
    by pixel at the size of the masks. Classes that occur in neither count for nothing. An artefact of fixed size is
    given images of other sizes in overlapping tiles.

    \b
    protoseg evaluate runs/mine --recipe mine.yaml
    protoseg evaluate bundles/mine --recipe mine.yaml data.root=/data/other
    protoseg evaluate bundles/mine --recipe mine.yaml --precision int8
    protoseg evaluate bundles/mine/model.onnx --images photos --masks truth --mask-template '{stem}_mask.png'
    protoseg evaluate runs/mine --last --recipe mine.yaml --json | jq .miou_percent
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.evaluation.evaluate import check_same_classes, evaluate
    from protoseg_deploy.evaluation.samples import folder_samples, recipe_samples
    from protoseg_deploy.recipe import class_table, load_recipe

    if (recipe is None) == (images is None and masks is None):
        raise UsageError("give either --recipe, or --images and --masks: what to judge by")
    if recipe is None and overrides:
        raise UsageError(f"{overrides[0]}: KEY=VALUE changes a recipe; there is no --recipe")
    argument = runtime_argument(runtime_text, precision, backend)
    runtime = argument.open(device=device, which="last" if last else "best")
    value_map: dict[int, int] = {}
    ignore_index = runtime.info.ignore_index
    if recipe is not None:
        data = load_recipe(recipe, overrides).data
        check_same_classes(runtime.info, class_table(data), f"recipe {recipe}")
        samples = recipe_samples(data)
        value_map, ignore_index = dict(data.value_map), data.ignore_index
    else:
        if images is None or masks is None:
            raise UsageError("--images and --masks go together")
        samples = folder_samples(images, masks, mask_template)
    with progress_bar("evaluating", hidden=as_json) as progress:
        result = evaluate(
            runtime, samples, value_map=value_map, ignore_index=ignore_index, batch=batch, progress=progress
        )
    info = runtime.info
    if as_json:
        print_json({**describe_runtime(info), **result.to_dict()})
        return
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
    if result.tiled_images:
        click.echo(f"{result.tiled_images} images were not of a size this artefact takes and went in tiles")
