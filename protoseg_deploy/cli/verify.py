"""``protoseg verify``: does a bundle still do what its network does?"""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table, progress_bar


@click.command(name="verify")
@click.argument("bundle", type=PATH)
@click.option("--images", type=PATH, required=True, help="Folder of images, searched recursively.")
@click.option("--masks", type=PATH, help="Folder of their index masks, to compare the mIoU too.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Where a mask lies below --masks.")
@click.option("--count", type=click.IntRange(min=1), help="At most so many images, evenly spaced.  [default: all]")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where ONNX Runtime computes; the reference is always PyTorch on the CPU.",
)
@json_option
def command(
    bundle: Path,
    images: Path,
    masks: Path | None,
    mask_template: str,
    count: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the PyTorch network it carries, on real images, one by one at their own size.

    It passes (exit code 0) if 99.9 % of the pixels agree, if those that do not are ones PyTorch itself is undecided
    about, and if the mIoU stays the same. The verdict goes into the manifest of the bundle; if it does not pass (exit
    code 1), a picture of the worst image goes into BUNDLE/verification. Files whose checksum is not that of the
    manifest are refused.

    \b
    protoseg verify bundles/mine --images photos
    protoseg verify bundles/mine --images val/images --masks val/masks --json
    """
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.evaluation.samples import folder_samples
    from protoseg_deploy.exporting import verify_bundle, worst_picture

    samples = folder_samples(images, masks, mask_template, count)
    with progress_bar("verifying", hidden=as_json) as show:
        verdict = verify_bundle(bundle, samples, device=device, progress=show)
    if as_json:
        print_json({"bundle": str(bundle), **verdict.model_dump(mode="json")})
    else:
        limits = verdict.limits
        rows = [
            ("pixels that agree", f"{verdict.agreement_percent:.4f} %", f"≥ {limits.min_agreement_percent} %"),
            ("pixels that differ", f"{verdict.disagreeing_pixels:,}", ""),
            ("worst image", f"{verdict.worst_agreement_percent:.4f} %", verdict.worst_image),
            ("relative margin", f"{verdict.max_relative_margin:.2g}", f"≤ {limits.max_relative_margin:g}"),
        ]
        if verdict.miou_pytorch_percent is not None and verdict.miou_onnx_percent is not None:
            change = f"± {limits.max_miou_change_points:g} points"
            rows.append(("mIoU PyTorch", f"{verdict.miou_pytorch_percent:.2f} %", ""))
            rows.append(("mIoU ONNX", f"{verdict.miou_onnx_percent:.2f} %", change))
        title = f"{bundle}: {'passed' if verdict.passed else 'FAILED'} on {verdict.images} images"
        print_table(["", "measured", "limit"], rows, title=title)
    if not verdict.passed:
        picture = worst_picture(bundle)
        raise ProtosegError(
            f"{bundle} does not do what its network does: {'; '.join(verdict.reasons)}",
            f"Worst image: {picture}" if picture else "",
        )
