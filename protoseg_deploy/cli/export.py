"""``protoseg export``: a trained network as a bundle that runs without this program."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH, height_and_width, json_option, note, print_json, progress_bar


@click.command(name="export")
@click.argument("run", type=PATH)
@click.option("--bundle", type=PATH, required=True, help="Folder to write; a bundle that is there is replaced.")
@click.option("--size", type=height_and_width, metavar="HxW", help="Bind the graph to one image size.  [default: any]")
@click.option("--confidence", is_flag=True, help="Add an output: probability of the class, 0..255.")
@click.option("--logits", is_flag=True, help="Add an output: float32 logits.")
@click.option("--last", is_flag=True, help="Export the last network of the run instead of the best.")
@click.option("--opset", type=click.IntRange(18, 20), default=18, show_default=True, help="ONNX opset.")
@click.option("--images", type=PATH, help="Verify on these images.  [default: validation images of the recipe]")
@click.option("--masks", type=PATH, help="Masks of --images, to compare the mIoU too.")
@click.option(
    "--verify-images", type=click.IntRange(min=1), default=50, show_default=True, help="Verify on at most so many."
)
@click.option("--no-verify", is_flag=True, help="Leave the verification out; the manifest says so.")
@json_option
def command(
    run: Path,
    bundle: Path,
    size: tuple[int, int] | None,
    confidence: bool,
    logits: bool,
    last: bool,
    opset: int,
    images: Path | None,
    masks: Path | None,
    verify_images: int,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Export RUN (a run folder or a .safetensors network file) as a bundle: one ONNX graph with everything inside.

    The graph takes uint8 RGB images [batch,height,width,3] and gives uint8 class maps [batch,height,width]:
    normalisation, resizing and argmax are in it. Before the bundle appears it is verified: ONNX Runtime must agree with
    PyTorch on real images. If it does not, the command fails (exit code 1) and keeps what it made, with a picture of
    the worst image, in BUNDLE-failed.

    \b
    protoseg export runs/mine --bundle bundles/mine
    protoseg export runs/mine --bundle bundles/mine --size 512x1024 --confidence
    protoseg export runs/mine --bundle bundles/mine --images photos --verify-images 10
    protoseg export student.safetensors --bundle bundles/student --no-verify
    """
    from protoseg_deploy.data import Sample
    from protoseg_deploy.errors import ProtosegError, UsageError
    from protoseg_deploy.evaluation.samples import folder_samples, run_samples
    from protoseg_deploy.exporting import export_bundle

    if masks is not None and images is None:
        raise UsageError("--masks without --images", "Give the folder of the images too.")
    if no_verify and images is not None:
        raise UsageError("--no-verify and --images contradict each other")
    samples: tuple[Sample, ...] = ()
    unverified = ""
    if images is not None:
        samples = folder_samples(images, masks, count=verify_images)
    elif not no_verify:
        try:
            samples = run_samples(run, verify_images)
        except ProtosegError as error:
            unverified = error.message
    with progress_bar("verifying", hidden=as_json or not samples) as show:
        made = export_bundle(
            run,
            bundle,
            size=size,
            confidence=confidence,
            logits=logits,
            which="last" if last else "best",
            opset=opset,
            samples=samples,
            progress=show,
        )
    manifest, verdict = made.manifest, made.manifest.verification
    graph = manifest.files["model.onnx"]
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "onnx_bytes": graph.bytes,
                "parameters": manifest.network.parameters,
                "opset": manifest.opset,
                "fixed_size": manifest.input.fixed_size,
                "outputs": [output.name for output in manifest.outputs],
                "verification": verdict.model_dump(mode="json") if verdict else None,
            }
        )
    else:
        inputs = "x".join(str(axis) for axis in manifest.input.shape)
        click.echo(f"{bundle}: {manifest.network.backbone} + {manifest.network.decoder}, {graph.bytes / 1e6:.1f} MB")
        click.echo(f"  in   images {inputs} uint8 RGB")
        for output in manifest.outputs:
            click.echo(f"  out  {output.name} {'x'.join(str(axis) for axis in output.shape)} {output.dtype}")
        if verdict:
            click.echo(f"  verified on {verdict.images} images: {verdict.agreement_percent:.4f} % of the pixels agree")
    if unverified:
        raise ProtosegError(
            f"{bundle} is written but NOT verified: {unverified}",
            "Give images with --images DIR, or accept an unverified bundle with --no-verify.",
        )
    if verdict is None:
        note(f"{bundle} is not verified; `protoseg verify {bundle} --images DIR` does it later")
