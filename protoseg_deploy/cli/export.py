"""``protoseg export``: a trained network as a bundle that runs without this program."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.choices import Precision
from protoseg_deploy.cli.arguments import (
    PATH,
    Number,
    height_and_width,
    json_option,
    note,
    precision_list,
    print_json,
    progress_bar,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.cli.verify import show_verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.bundles import Bundle
    from protoseg_deploy.data import Sample
    from protoseg_deploy.exporting import VerificationFailedError
    from protoseg_deploy.exporting.int8.calibration import CalibrationMethod


@click.command(name="export", cls=Verb, short_help="Export a run as a verified bundle of ONNX graphs.")
@click.argument("run", type=PATH)
@click.option("--bundle", type=PATH, required=True, help="Bundle folder to write; an existing bundle is replaced.")
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    default=("fp32",),
    show_default=True,
    metavar="LIST",
    callback=precision_list,
    help="Any of fp32, fp16, bf16, int8; one graph each. fp32 is always included; the others are derived from it.",
)
@click.option(
    "--size", type=height_and_width, metavar="HxW", help="Fixed input shape of the graphs.  [default: any size]"
)
@click.option("--confidence", is_flag=True, help="Add an output: probability of the predicted class, 0 to 255.")
@click.option("--logits", is_flag=True, help="Add an output: float32 logits.")
@click.option("--last", is_flag=True, help="Export the last network of the run instead of the best.")
@click.option(
    "--opset",
    type=click.IntRange(18, 23),
    default=18,
    show_default=True,
    help="ONNX opset; bf16 graphs use at least 22.",
)
@click.option(
    "--calibration-images", type=PATH, help="Images to calibrate int8 on.  [default: the recipe's unlabelled ones]"
)
@click.option(
    "--calibration-count",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Calibrate on at most this many images.",
)
@click.option(
    "--calibration-method",
    type=click.Choice(["entropy", "percentile", "minmax"]),
    default="percentile",
    show_default=True,
    help="Calibration method for activation ranges.",
)
@click.option(
    "--max-drop",
    type=Number(min=0),
    default=1.0,
    show_default=True,
    help="Allowed mIoU loss of int8, in points; if it is exceeded, the most sensitive layers stay in fp32.",
)
@click.option("--images", type=PATH, help="Verify on these images.  [default: the recipe's validation images]")
@click.option("--masks", type=PATH, help="Masks of --images, to compare mIoU as well.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option(
    "--verify-images",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Verify on at most this many images.",
)
@click.option("--no-verify", is_flag=True, help="Skip verification; the manifest records this.")
@timeout_option
@json_option
def command(
    run: Path,
    bundle: Path,
    precisions: "tuple[Precision, ...]",
    size: tuple[int, int] | None,
    confidence: bool,
    logits: bool,
    last: bool,
    opset: int,
    calibration_images: Path | None,
    calibration_count: int,
    calibration_method: "CalibrationMethod",
    max_drop: float,
    images: Path | None,
    masks: Path | None,
    mask_template: str,
    verify_images: int,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Export RUN (a run folder or a .safetensors network file) as a bundle of self-contained ONNX graphs.

    A graph takes uint8 RGB images [batch,height,width,3] and returns uint8 class maps [batch,height,width]:
    normalisation, resizing, upsampling and argmax are part of it. Before the bundle is written, it is verified stage by
    stage: PyTorch, the fp32 graph and every other precision must agree on real images. If a stage fails, the command
    names it, exits with code 1, and keeps its output, with a picture of the worst image, in BUNDLE-failed.
    The bundle of a run with the tracker `mlflow` is also logged there, as a model.

    BUNDLE/MODEL_CARD.md says for people, and for the Hugging Face Hub, what the network was trained on, how accurate it
    is class by class, what was verified and what its limits are.

    \b
    protoseg export runs/mine --bundle bundles/mine
    protoseg export runs/mine --bundle bundles/mine --precision fp16,int8 --max-drop 0.5
    protoseg export runs/mine --bundle bundles/mine --size 512x1024 --confidence
    protoseg export runs/mine --bundle bundles/mine --images photos --verify-images 10
    protoseg export student.safetensors --bundle bundles/student --no-verify
    """
    from protoseg_deploy.exporting import Calibration, VerificationFailedError, export_bundle
    from protoseg_deploy.reporting.card import export_card

    _check_options(precisions, images, masks, no_verify)
    samples, unverified = _verified_on(
        run, images, masks, mask_template, verify_images, needed=not no_verify or "int8" in precisions
    )
    with progress_bar("calibrating and verifying" if "int8" in precisions else "verifying", hidden=as_json) as show:
        calibration = None
        if "int8" in precisions:
            found = _calibrated_on(run, calibration_images)
            calibration = Calibration(found, calibration_count, calibration_method, max_drop, show)
        try:
            made = export_bundle(
                run,
                bundle,
                precisions=precisions,
                size=size,
                confidence=confidence,
                logits=logits,
                which="last" if last else "best",
                opset=opset,
                calibration=calibration,
                samples=samples,
                verify=not no_verify,
                card=export_card(run, bundle),
                progress=show,
            )
        except VerificationFailedError as error:
            if as_json:
                print_json(_document_of_failure(error))
            raise
    _tell(made, _track(run, made), as_json)
    for warning in made.manifest.graphs["int8"].conversion["warnings"] if "int8" in precisions else ():
        note(warning)
    _note_unverified(bundle, made, unverified)


def _tell(made: "Bundle", model_uri: str | None, as_json: bool) -> None:
    if as_json:
        print_json(_document(made) | {"mlflow_model": model_uri})
        return
    _show(made)
    if model_uri:
        click.echo(f"  MLflow model {model_uri}")


def _track(run: Path, made: "Bundle") -> str | None:
    """The bundle as a model in MLflow, if the run was tracked there; a store that fails takes nothing from it."""
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.training.trackers.bundles import log_bundle

    try:
        return log_bundle(run, made)
    except ProtosegError as error:
        note(f"{error.message}. {error.hint}")
        return None


def _check_options(
    precisions: "tuple[Precision, ...]", images: Path | None, masks: Path | None, no_verify: bool
) -> None:
    """Raises UsageError where they contradict each other, and says where bf16 cannot be computed."""
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.runtimes.openvino import why_no_bf16

    if masks is not None and images is None:
        raise UsageError("--masks without --images", "Give the folder of the images too.")
    if no_verify and images is not None and "int8" not in precisions:
        raise UsageError("--no-verify and --images contradict each other")
    if "bf16" in precisions and (reason := why_no_bf16()) is not None:
        note(f"{reason}: run the bf16 graph with ONNX Runtime, or where bf16 is computed")


def _verified_on(
    run: Path, images: Path | None, masks: Path | None, mask_template: str, count: int, *, needed: bool
) -> "tuple[tuple[Sample, ...], str]":
    """Images to verify on, of a folder or of the run; and why those of the run are not there."""
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.evaluation.samples import folder_samples, run_samples

    samples: tuple[Sample, ...] = ()
    unverified = ""
    if images is not None:
        samples = folder_samples(images, masks, mask_template, count)
    elif needed:
        try:
            samples = run_samples(run, count)
        except ProtosegError as error:
            unverified = error.message
    return samples, unverified


def _calibrated_on(run: Path, images: Path | None) -> "Sequence[Path]":
    from protoseg_deploy.evaluation.samples import folder_samples, run_unlabeled

    return run_unlabeled(run) if images is None else [sample.image for sample in folder_samples(images)]


def _note_unverified(bundle: Path, made: "Bundle", unverified: str) -> None:
    """Raises ProtosegError where the bundle should have been verified, and says why it was not."""
    from protoseg_deploy.errors import ProtosegError

    if unverified:
        raise ProtosegError(
            f"{bundle} is written but NOT verified: {unverified}",
            "Give images with --images DIR, or accept an unverified bundle with --no-verify.",
        )
    if made.manifest.verification is None:
        note(f"{bundle} is not verified; `protoseg verify {bundle} --images DIR` does it later")


def _document_of_failure(error: "VerificationFailedError") -> dict[str, object]:
    return {"bundle": None, "kept": str(error.kept), "verification": error.verification.model_dump(mode="json")}


def _document(made: "Bundle") -> dict[str, object]:
    manifest = made.manifest
    return {
        "bundle": str(made.folder),
        "graphs": {
            precision: {"file": graph.file, "bytes": _bytes(made, precision), "opset": graph.opset, **graph.conversion}
            for precision, graph in manifest.graphs.items()
        },
        "parameters": manifest.network.parameters,
        "fixed_size": manifest.input.fixed_size,
        "outputs": [output.name for output in manifest.outputs],
        "verification": None if manifest.verification is None else manifest.verification.model_dump(mode="json"),
    }


def _show(made: "Bundle") -> None:
    manifest = made.manifest
    inputs = "x".join(str(axis) for axis in manifest.input.shape)
    click.echo(f"{made.folder}: {manifest.network.backbone} + {manifest.network.decoder}")
    for precision, graph in manifest.graphs.items():
        click.echo(f"  {precision:4} {graph.file}, {_bytes(made, precision) / 1e6:.1f} MB, opset {graph.opset}")
    click.echo(f"  in   images {inputs} uint8 RGB")
    for output in manifest.outputs:
        click.echo(f"  out  {output.name} {'x'.join(str(axis) for axis in output.shape)} {output.dtype}")
    if manifest.verification is not None:
        show_verification(made.folder, manifest.verification)


def _bytes(made: "Bundle", precision: "Precision") -> int:
    return sum(made.manifest.files[name].bytes for name in made.manifest.graphs[precision].files)
