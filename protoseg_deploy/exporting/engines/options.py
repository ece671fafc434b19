"""What an engine is built for: library, shapes, GPUs; and what of that cannot be."""

from dataclasses import dataclass

import torch

from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.tensorrt import EngineKind, Profile, load_library

_LARGEST_BATCH = 4
_SMALLEST_SIDE, _USUAL_SIDE, _LARGEST_SIDE = 64, 512, 1024


@dataclass(frozen=True)
class EngineOptions:
    """What to build.

    Raises:
        UsageError: an option that the library does not have.
    """

    engine: EngineKind
    profile: Profile | None = None
    """Absent: `default_profile`."""
    target_sm: tuple[str, ...] = ()
    """Compute capabilities such as ``8.6``, TensorRT-RTX only; empty: any from 8.0 on. TensorRT builds for the GPU of
    this machine."""
    workspace_bytes: int | None = None
    """Limit of scratch memory on the GPU, activations included; absent: the library's own, all of its memory."""
    version_compatible: bool = False
    """Runs under later versions of the same major number, TensorRT only."""
    hardware_compatible: bool = False
    """Runs on any GPU from compute capability 8.0 on, TensorRT only."""

    def __post_init__(self) -> None:
        if self.engine == "tensorrt" and self.target_sm:
            raise UsageError(
                "--target-sm: TensorRT builds for the GPU of the machine it runs on",
                "Build on that machine, or take --engine tensorrt-rtx, or --hardware-compatible.",
            )
        if self.engine == "tensorrt-rtx" and self.version_compatible:
            raise UsageError(
                "--version-compatible: engines of TensorRT-RTX run under the version they were built with only",
                "Leave it out, and build again when the library is updated.",
            )
        if self.engine == "tensorrt-rtx" and self.hardware_compatible:
            raise UsageError(
                "--hardware-compatible: engines of TensorRT-RTX run on any GPU from compute capability 8.0 on as it is",
                "Leave it out, or name the GPUs with --target-sm.",
            )


def engine_name(precision: Precision, options: EngineOptions) -> str:
    """Name in the bundle: ``fp16-sm86`` of TensorRT, ``fp16-rtx`` or ``fp16-rtx-sm75-sm86`` of TensorRT-RTX."""
    parts = [precision, *(["rtx"] if options.engine == "tensorrt-rtx" else [])]
    return "-".join([*parts, *(f"sm{target.replace('.', '')}" for target in targets_of(options))])


def default_profile(fixed_size: tuple[int, int] | None) -> Profile:
    """Batches of 1 to 4, at the graph's own size or at 64 to 1024 pixels per side, fastest at 512."""
    sizes = [fixed_size] * 3 if fixed_size else [(side, side) for side in (_SMALLEST_SIDE, _USUAL_SIDE, _LARGEST_SIDE)]
    return Profile(min=(1, *sizes[0]), opt=(1, *sizes[1]), max=(_LARGEST_BATCH, *sizes[2]))


def check_options(options: EngineOptions) -> None:
    """Refuse what no engine of any precision can be built with.

    Raises:
        UsageError: the library is missing, a target is not a compute capability, or TensorRT has no GPU to build for.
    """
    load_library(options.engine)
    targets_of(options)


def check_target(precision: Precision, options: EngineOptions) -> None:
    """Refuse a precision that a target has no arithmetic for.

    Raises:
        UsageError: bf16 below compute capability 8.0.
    """
    reason = why_impossible(precision, options)
    if reason:
        raise UsageError(reason, "Build fp16 for it, or leave it out of --target-sm.")


def why_impossible(precision: Precision, options: EngineOptions) -> str:
    """Why no engine of a precision can be built for the targets; empty if one can."""
    since = SPECS[precision].tensorrt_since
    too_old = [target for target in targets_of(options) if since and capability_of(target) < capability_of(since)]
    if not too_old:
        return ""
    return f"{precision} needs a GPU of compute capability {since} or later; {' and '.join(too_old)} has none"


def targets_of(options: EngineOptions) -> tuple[str, ...]:
    """Compute capabilities to build for, in order; empty: any from 8.0 on.

    Raises:
        UsageError: one is not a compute capability, or TensorRT has no GPU to build for.
    """
    if options.engine == "tensorrt-rtx":
        return tuple(sorted(set(options.target_sm), key=capability_of))
    if not torch.cuda.is_available():
        raise UsageError(
            "TensorRT builds on the GPU it builds for, and PyTorch finds none here",
            "Build on that machine, or take --engine tensorrt-rtx, which needs none.",
        )
    major, minor = torch.cuda.get_device_capability()
    return (f"{major}.{minor}",)


def capability_of(target: str) -> tuple[int, int]:
    """``8.6`` as (8, 6)."""
    major, dot, minor = target.partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal()):
        raise UsageError(f"--target-sm: {target!r} is not a compute capability", "Write it with a dot, such as 8.6.")
    return int(major), int(minor)


def check_profile(profile: Profile, fixed_size: tuple[int, int] | None) -> None:
    """Refuse a profile that is none, or that a graph of fixed size cannot have.

    Raises:
        UsageError: smallest, best and largest shape are not in order, or differ from the size of the graph.
    """
    shapes = (profile.min, profile.opt, profile.max)
    if not all(0 < a <= b <= c for a, b, c in zip(*shapes, strict=True)):
        raise UsageError(
            f"--profile {profile}: every side of the smallest shape is at most that of the best, and that at most "
            "that of the largest"
        )
    if fixed_size is not None and any(shape[1:] != fixed_size for shape in shapes):
        size = f"{fixed_size[0]}x{fixed_size[1]}"
        raise UsageError(
            f"--profile {profile}: the graph has a fixed input size of {size} pixels",
            f"Vary the batch only, such as 1x{size},1x{size},8x{size}, or export without --size.",
        )
