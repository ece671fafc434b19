"""``protoseg build``: engines of TensorRT from the graphs of a bundle."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.choices import Precision
from protoseg_deploy.cli.arguments import (
    PATH,
    comma_list,
    json_option,
    note,
    precision_list,
    print_json,
    print_table,
    progress_bar,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.cli.verify import show_verification

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.bundles import Bundle, Verification
    from protoseg_deploy.data import Sample
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.exporting.engines.building import BuiltEngine
    from protoseg_deploy.exporting.engines.options import EngineOptions
    from protoseg_deploy.runtimes.tensorrt import Profile

_UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _profile(_context: click.Context, _option: click.Parameter, text: str | None) -> "Profile | None":
    """``MIN,OPT,MAX``, each ``BATCHxHEIGHTxWIDTH``; one shape alone is all three."""
    from protoseg_deploy.runtimes.tensorrt import Profile

    if text is None:
        return None
    shapes = []
    for part in text.lower().replace("×", "x").split(","):
        sides = part.strip().split("x")
        if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
            raise click.BadParameter(f"{part.strip()!r} is not a shape: give BATCHxHEIGHTxWIDTH, such as 1x512x512")
        shapes.append((int(sides[0]), int(sides[1]), int(sides[2])))
    if len(shapes) not in (1, 3):
        raise click.BadParameter(f"{text!r} has {len(shapes)} shapes: give one, or the smallest, the best, the largest")
    return Profile(min=shapes[0], opt=shapes[len(shapes) // 2], max=shapes[-1])


def _bytes(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]iB)", text.strip(), re.IGNORECASE)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a size: write a number and KiB, MiB or GiB, such as 4GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


@click.command(name="build", cls=Verb, short_help="Build TensorRT engines from a bundle.")
@click.argument("folder", metavar="BUNDLE", type=PATH)
@click.option(
    "--engine",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    required=True,
    help="`tensorrt`: data-centre GPUs and Jetson; builds for the GPU of this machine. `tensorrt-rtx`: GeForce and "
    "RTX; builds without a GPU.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    metavar="LIST",
    callback=precision_list,
    help="Any of fp32, fp16, bf16, int8; one engine each.  [default: all in the bundle]",
)
@click.option(
    "--profile",
    metavar="MIN,OPT,MAX",
    callback=_profile,
    help="Minimum, optimal and maximum BATCHxHEIGHTxWIDTH; a single shape sets all three.  "
    "[default: 1x64x64,1x512x512,4x1024x1024]",
)
@click.option(
    "--target-sm",
    "targets",
    multiple=True,
    metavar="LIST",
    help="tensorrt-rtx: compute capabilities to build for, such as 7.5,8.6.  [default: 8.0 and later]",
)
@click.option("--workspace", metavar="SIZE", callback=_bytes, help="Workspace limit on the GPU, such as 4GiB.")
@click.option(
    "--version-compatible", is_flag=True, help="tensorrt: also run with later versions of the same major release."
)
@click.option(
    "--hardware-compatible", is_flag=True, help="tensorrt: run on any GPU of compute capability 8.0 or later."
)
@click.option(
    "--images", type=PATH, help="Images to verify the engines on; required on a GPU machine unless --no-verify."
)
@click.option("--masks", type=PATH, help="Masks of --images, to compare mIoU as well.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option(
    "--verify-images",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Verify on at most this many images.",
)
@click.option("--no-verify", is_flag=True, help="Skip verification, even if the engines can run here.")
@timeout_option
@json_option
def command(
    folder: Path,
    engine: str,
    precisions: "tuple[Precision, ...]",
    profile: "Profile | None",
    targets: tuple[str, ...],
    workspace: int | None,
    version_compatible: bool,
    hardware_compatible: bool,
    images: Path | None,
    masks: Path | None,
    mask_template: str,
    verify_images: int,
    no_verify: bool,
    as_json: bool,
) -> None:
    """Build engines from the graphs of BUNDLE into BUNDLE/engines, each with a sidecar file that describes it.

    The precision is that of the graph. Every engine is inspected: one that was requested as fp16 but computes in fp32
    is an error. An engine runs only with the library version it was built with, on the GPUs it was built for, and at
    the shapes of its profile; anything else is refused with a clear message. If one precision cannot be built, the
    others still are, and the command fails (exit code 1) at the end. Engines that can run on this machine are verified
    like every other artefact of the bundle.

    \b
    protoseg build bundles/mine --engine tensorrt --images photos
    protoseg build bundles/mine --engine tensorrt --images photos --profile 1x512x1024 --workspace 4GiB
    protoseg build bundles/mine --engine tensorrt-rtx --precision fp16,int8 --target-sm 8.6,8.9
    protoseg build bundles/mine --engine tensorrt --images photos --hardware-compatible --version-compatible
    """
    from protoseg_deploy.bundles import Bundle
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.evaluation.samples import folder_samples
    from protoseg_deploy.exporting.engines.options import EngineOptions, check_options

    if masks is not None and images is None:
        raise UsageError("--masks without --images", "Give the folder of the images too.")
    if no_verify and images is not None:
        raise UsageError("--no-verify and --images contradict each other")
    options = EngineOptions(
        engine="tensorrt" if engine == "tensorrt" else "tensorrt-rtx",
        profile=profile,
        target_sm=tuple(comma_list(targets)),
        workspace_bytes=workspace,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )
    bundle = Bundle.open(folder)
    wanted = precisions or tuple(bundle.manifest.graphs)
    check_options(options)
    for precision in wanted:
        bundle.require_graph(precision)
    built, skipped, failed = _build(bundle, wanted, options, may_skip=not precisions, hidden=as_json)
    if skipped and not built and not failed:
        raise UsageError(f"nothing to build: {'; '.join(skipped.values())}", "Choose other targets or precisions.")
    verification = None
    if built and images is not None:
        verification = _verify(folder, folder_samples(images, masks, mask_template, verify_images), as_json)
    if as_json:
        print_json(_document(folder, built, skipped, failed, verification))
    else:
        _show(folder, built, verification)
    for precision, reason in skipped.items():
        note(f"{precision} skipped: {reason}")
    _refuse_what_failed(bundle, failed, verification)
    _note_unverified(folder, verification is not None, no_verify)


def _build(
    bundle: "Bundle", wanted: "Sequence[Precision]", options: "EngineOptions", *, may_skip: bool, hidden: bool
) -> "tuple[list[BuiltEngine], dict[Precision, str], dict[Precision, ProtosegError]]":
    """The engines, why others were left out where that is allowed, and why others failed."""
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.exporting.engines.building import build_into_bundle
    from protoseg_deploy.exporting.engines.options import why_impossible

    built: list[BuiltEngine] = []
    skipped: dict[Precision, str] = {}
    failed: dict[Precision, ProtosegError] = {}
    with progress_bar("building", hidden=hidden) as show:
        for number, precision in enumerate(wanted):
            show(number, len(wanted))
            if may_skip and (reason := why_impossible(precision, options)):
                skipped[precision] = reason
                continue
            try:
                built.append(build_into_bundle(bundle, precision, options))
            except ProtosegError as error:
                failed[precision] = error
        show(len(wanted), len(wanted))
    return built, skipped, failed


def _verify(folder: Path, samples: "Sequence[Sample]", hidden: bool) -> "Verification":
    """The gate over the whole bundle."""
    from protoseg_deploy.bundles import Bundle
    from protoseg_deploy.exporting import verify_bundle

    with progress_bar("verifying", hidden=hidden) as show:
        return verify_bundle(Bundle.open(folder), samples, progress=show)


def _refuse_what_failed(
    bundle: "Bundle", failed: "dict[Precision, ProtosegError]", verification: "Verification | None"
) -> None:
    """Raises ProtosegError where a precision could not be built, or an engine does not do what its graph does."""
    from protoseg_deploy.errors import ProtosegError
    from protoseg_deploy.exporting import failure_message

    if failed:
        faults = [f"{precision}: {error.message}" for precision, error in failed.items()]
        hints = dict.fromkeys(error.hint for error in failed.values() if error.hint)
        raise ProtosegError("\n".join(["not built", *faults]), "\n".join(hints))
    if verification is not None and not verification.passed:
        raise ProtosegError(*failure_message(bundle, verification))


def _note_unverified(folder: Path, verified: bool, no_verify: bool) -> None:
    """Say that engines are not verified; raises ProtosegError where they could be, and nobody has waived it."""
    import torch

    from protoseg_deploy.errors import ProtosegError

    later = f"`protoseg verify {folder} --images DIR`"
    if not torch.cuda.is_available():
        note(f"the engines are not verified: there is no NVIDIA GPU here; {later} does it on the machine they are for")
    elif not verified and no_verify:
        note(f"the engines are not verified; {later} does it later")
    elif not verified:
        raise ProtosegError(
            f"{folder}: the engines are built but NOT verified: there are no images to verify them on",
            f"Give them with --images DIR, now or to {later}, or accept unverified engines with --no-verify.",
        )


def _document(
    folder: Path,
    built: list["BuiltEngine"],
    skipped: "dict[Precision, str]",
    failed: "dict[Precision, ProtosegError]",
    verification: "Verification | None",
) -> dict[str, object]:
    return {
        "bundle": str(folder),
        "engines": {
            engine.name: {"file": str(engine.file), **engine.sidecar.model_dump(mode="json", exclude={"metadata"})}
            for engine in built
        },
        "skipped": dict(skipped),
        "failed": {precision: str(error) for precision, error in failed.items()},
        "verification": None if verification is None else verification.model_dump(mode="json"),
    }


def _show(folder: Path, built: list["BuiltEngine"], verification: "Verification | None") -> None:
    if not built:
        return
    rows = []
    for engine in built:
        sidecar = engine.sidecar
        heavy = ", ".join(f"{count} {name}" for name, count in sidecar.layers.heavy.items())
        targets = ", ".join(sidecar.targets) or "8.0 and later"
        size, seconds = f"{sidecar.engine_bytes / 1e6:.1f}", f"{sidecar.build_seconds:.1f}"
        rows.append((engine.name, targets, heavy, sidecar.layers.evidence, size, seconds))
    print_table(
        ["engine", "compute capability", "convolutions and products", "seen in", "MB", "build time (s)"],
        rows,
        title=f"{folder}: {built[0].sidecar.library}, shapes {built[0].sidecar.profile}",
    )
    if verification is not None:
        show_verification(folder, verification)
