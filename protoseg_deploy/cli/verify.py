"""``protoseg verify``: does every artefact of a bundle still do what the network does?"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.choices import PRECISIONS, Backend, Precision
from protoseg_deploy.cli.arguments import (
    PATH,
    Number,
    json_option,
    print_json,
    print_table,
    progress_bar,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.bundles import Bundle, Verification
    from protoseg_deploy.bundles.verdicts import Limits
    from protoseg_deploy.data.folders import Sample
    from protoseg_deploy.exporting import Bisection


@click.command(name="verify", cls=Verb, short_help="Verify the graphs and engines of a bundle.")
@click.argument("folder", metavar="BUNDLE", type=PATH)
@click.option("--images", type=PATH, required=True, help="Folder of images, searched recursively.")
@click.option("--masks", type=PATH, help="Folder of their masks, to compare mIoU as well.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option("--count", type=click.IntRange(min=1), help="At most this many images, evenly spaced.  [default: all]")
@click.option(
    "--max-drop", type=Number(min=0), help="Allowed mIoU loss of int8, in points.  [default: as exported, or 1]"
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Device of ONNX Runtime; the reference is always PyTorch on the CPU.",
)
@click.option(
    "--backend",
    type=click.Choice(["tensorrt-ep", "openvino"]),
    help="Also verify every graph under this backend.",
)
@click.option(
    "--against",
    metavar="URL",
    help="Compare a server (http://HOST:PORT/MODEL, grpc://...) with BUNDLE, and nothing else.",
)
@click.option(
    "--bisect",
    type=click.Choice(PRECISIONS),
    help="Only find the first operation of this graph that differs, on one image.",
)
@timeout_option
@json_option
def command(
    folder: Path,
    images: Path,
    masks: Path | None,
    mask_template: str,
    count: int | None,
    max_drop: float | None,
    device: str,
    backend: Backend | None,
    against: str | None,
    bisect: "Precision | None",
    as_json: bool,
) -> None:
    """Compare every graph and engine of BUNDLE with what it was made from, on real images at their own size.

    The stages are PyTorch, the fp32 graph, the graphs of other precisions, and the engines that can run on this
    machine. A stage passes if enough pixels agree, if PyTorch has low confidence in those that do not, and if the mIoU
    does not drop; the limits depend on the precision. The first failing stage is named with what to do next (exit code
    1). Verdicts are stored in the manifest, pictures of the worst images in BUNDLE/verification. Files whose checksum
    does not match the manifest are refused.

    With --against, the class maps of a server are compared with those of the artefact of BUNDLE that it says to serve.
    It fails if that is another artefact, or if one pixel differs.

    \b
    protoseg verify bundles/mine --images photos
    protoseg verify bundles/mine --images val/images --masks val/masks --json
    protoseg verify bundles/mine --images photos --backend openvino
    protoseg verify bundles/mine --images photos --against http://127.0.0.1:8000/mine
    protoseg verify bundles/mine --images photos --bisect fp16
    """
    from protoseg_deploy.bundles import Bundle
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.evaluation.samples import folder_samples
    from protoseg_deploy.exporting import bisect_graph, failure_message, int8_limits, verify_bundle

    samples = folder_samples(images, masks, mask_template, count)
    bundle = Bundle.open(folder)
    if against is not None:
        _compare_with_server(bundle, against, samples, device, as_json)
        return
    if bisect is not None:
        found = bisect_graph(bundle, bisect, _worst_image(bundle, bisect, [sample.image for sample in samples]))
        if as_json:
            print_json(found.to_dict())
        else:
            _show_bisection(found)
        return
    with progress_bar("verifying", hidden=as_json) as show:
        limits: dict[Precision, Limits] = {} if max_drop is None else {"int8": int8_limits(max_drop)}
        verification = verify_bundle(
            bundle, samples, limits=limits, device=device, backends=(backend,) if backend else (), progress=show
        )
    if as_json:
        print_json({"bundle": str(folder), **verification.model_dump(mode="json")})
    else:
        show_verification(folder, verification)
    if not verification.passed:
        raise ProtosegError(*failure_message(bundle, verification))


def _compare_with_server(bundle: "Bundle", url: str, samples: "Sequence[Sample]", device: str, as_json: bool) -> None:
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.exporting.gate.serving import compare_with_server
    from protoseg_deploy.runtimes.remote import RemoteRuntime
    from protoseg_deploy.server_address import parse_address

    server = RemoteRuntime(parse_address(url))
    with progress_bar("comparing", hidden=as_json) as show:
        found = compare_with_server(bundle, server, samples, device=device, progress=show)
    if as_json:
        print_json(found.to_dict())
    else:
        verdict = {True: "verified", False: "failed its verification", None: "not verified"}[found.verified]
        click.echo(
            f"{found.server} serves {found.bundle} ({found.precision}, {verdict}), sha256 {found.sha256[:12]}\n"
            f"{found.images} images: {found.differing_pixels} differing pixels"
        )
        if found.miou_server_percent is not None and found.miou_bundle_percent is not None:
            click.echo(f"mIoU {found.miou_server_percent:.2f} % there, {found.miou_bundle_percent:.2f} % here")
    if found.differing_pixels:
        raise ProtosegError(
            f"{found.server} does not answer what {found.bundle} answers: {found.differing_pixels} pixels differ in "
            f"{found.differing_images} of {found.images} images ({found.agreement_percent:.4f} % agree), most in "
            f"{found.worst_image}",
            f"It computes with {server.facts.backend}. Another device or library rounds differently: verify the bundle "
            "with that one, too.",
        )


def _worst_image(bundle: "Bundle", precision: "Precision", images: list[Path]) -> Path:
    """The image on which the gate found the graph to differ most, if it is among them; else the first."""
    verification = bundle.manifest.verification
    stage = None if verification is None else verification.stage(f"onnx {precision}")
    return next((image for image in images if stage is not None and image.name == stage.worst_image), images[0])


def show_verification(folder: Path, verification: "Verification") -> None:
    """One line per stage."""
    rows: list[tuple[str, ...]] = []
    if verification.miou_pytorch_percent is not None:
        rows.append(("pytorch", "", "", "", f"{verification.miou_pytorch_percent:.2f}", "", ""))
    for stage in verification.stages:
        measured = (stage.agreement_percent, stage.max_relative_margin, stage.miou_percent, stage.miou_drop_points)
        formats = ("{:.4f}", "{:.2g}", "{:.2f}", "{:+.2f}")
        cells = ("" if x is None else shown.format(x) for x, shown in zip(measured, formats, strict=True))
        rows.append((stage.stage, stage.against, *cells, stage.status))
    verdict = "passed" if verification.passed else "FAILED"
    print_table(
        ["stage", "against", "agree %", "margin", "mIoU %", "drop", "verdict"],
        rows,
        title=f"{folder}: {verdict} on {verification.images} images",
    )
    for stage in verification.stages:
        if stage.status == "not run":
            click.echo(f"{stage.stage} was not run: {'; '.join(stage.reasons)}")


def _show_bisection(found: "Bisection") -> None:
    print_table(
        ["operation", "kind", "in dB", "out dB"],
        [(step.operation, step.kind, _decibel(step.inputs_db), _decibel(step.output_db)) for step in found.steps],
        title=f"{found.graph} against {found.against} on {found.image}: what loses most, in the order of the graph",
    )
    click.echo(found.summary())


def _decibel(value: float) -> str:
    return "equal" if value >= 150 else f"{value:.1f}"
