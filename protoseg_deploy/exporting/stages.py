"""The stages of the gate: which artefacts a bundle has, what each was made from, and what it has to keep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime, UInt8Array
from protoseg_deploy.runtimes.graphs import verified_as
from protoseg_deploy.runtimes.manifest import Manifest
from protoseg_deploy.runtimes.metadata import Precision
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.tiling import fit_image
from protoseg_deploy.runtimes.verdicts import Limits, StageVerdict
from protoseg_deploy.text import shown

LIMITS: Mapping[Precision, Limits] = {
    "fp32": Limits(min_agreement_percent=99.9, max_relative_margin=1e-2, max_miou_drop_points=0.1),
    "fp16": Limits(min_agreement_percent=99.5, max_relative_margin=0.05, max_miou_drop_points=0.2),
    "bf16": Limits(min_agreement_percent=99.0, max_relative_margin=0.5, max_miou_drop_points=0.5),
    "int8": Limits(min_agreement_percent=90.0, max_relative_margin=None, max_miou_drop_points=1.0),
}
"""What a graph has to keep against the one it was made from. An engine may round as fp16 does even in fp32 (TF32): it
is held to the limits of its precision, but not to stricter ones than those of fp16."""


def int8_limits(max_drop: float) -> Limits:
    """Limits of int8 with another loss of mIoU allowed, in points.

    Raises:
        UsageError: that is no loss; NaN above all, which no loss is larger than.
    """
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop < math.inf:
        raise UsageError(f"int8 may lose a number of points of mIoU from 0 on, not {shown(max_drop)}")
    return LIMITS["int8"].model_copy(update={"max_miou_drop_points": max_drop})


SizeRange = tuple[tuple[int, int], tuple[int, int]]

_SYMMETRIC = "symmetric int8"
"""The int8 graph as TensorRT takes it, see `protoseg_deploy.exporting.symmetry`."""


@dataclass(frozen=True)
class Stage:
    """One artefact that can be compared, or the reason why it cannot."""

    name: str
    artefact: str
    precision: Precision
    against: str
    limits: Limits
    runtime: Runtime | None
    reason: str = ""

    @property
    def is_graph(self) -> bool:
        return self.name.startswith("onnx ")


def exported_limits(manifest: Manifest) -> dict[Precision, Limits]:
    int8 = manifest.graphs.get("int8")
    allowed = None if int8 is None else int8.conversion.get("max_drop_points")
    return dict(LIMITS) if allowed is None else {**LIMITS, "int8": int8_limits(allowed)}


def find_stages(
    bundle: Path, manifest: Manifest, device: str, openvino: bool, limits: Mapping[Precision, Limits]
) -> list[Stage]:
    """Every artefact of a bundle, opened; which compares its files with their checksums."""
    stages = []
    for precision, graph in manifest.graphs.items():
        against = "pytorch" if precision == "fp32" else "onnx fp32"
        runtime = open_runtime(bundle, device=device, precision=precision)
        stages.append(Stage(f"onnx {precision}", graph.file, precision, against, limits[precision], runtime))
    for precision, graph in manifest.graphs.items() if openvino else ():
        other, reason = _opened(bundle, precision=precision, backend="openvino")
        artefact, against = verified_as(graph.file, "openvino"), f"onnx {precision}"
        stages.append(Stage(f"openvino {precision}", artefact, precision, against, limits[precision], other, reason))
    twins = {entry.graph for entry in manifest.engines.values() if entry.graph not in manifest.files_of_graphs()}
    for twin in sorted(twins):
        runtime = open_runtime(bundle / twin, device=device)
        stages.append(Stage(_SYMMETRIC, twin, "int8", "onnx fp32", limits["int8"], runtime))
    for name, entry in manifest.engines.items():
        against = _SYMMETRIC if entry.graph in twins else f"onnx {entry.precision}"
        held_to = limits["fp16" if entry.precision == "fp32" else entry.precision]
        engine, reason = _opened(bundle / entry.file)
        stages.append(Stage(f"engine {name}", entry.file, entry.precision, against, held_to, engine, reason))
    return stages


def _opened(path: Path, **options: Any) -> tuple[Runtime | None, str]:
    """A runtime, or why this machine has none for it: no GPU, another GPU, no bf16; not the fault of the artefact."""
    try:
        return open_runtime(path, **options), ""
    except UsageError as error:
        return None, error.message


@dataclass(frozen=True)
class Pass:
    """Stages that see images of the same sizes; the first ones may be there only for the others' sake."""

    stages: tuple[Stage, ...]
    counted: frozenset[str]
    sizes: SizeRange | None
    """Smallest and largest height and width; None: any."""

    def fit(self, array: UInt8Array) -> UInt8Array:
        if self.sizes is None:
            return array
        size = np.clip(array.shape[:2], *self.sizes)
        return fit_image(array, (int(size[0]), int(size[1])))


def passes_of(stages: Sequence[Stage], fixed: tuple[int, int] | None) -> list[Pass]:
    """Stages that take images of the same sizes together, each with what it was made from, the graphs first."""
    by_name = {stage.name: stage for stage in stages}
    groups: dict[SizeRange | None, list[Stage]] = {}
    for stage in stages:
        if stage.runtime is not None:
            own = None if fixed is None else (fixed, fixed)
            groups.setdefault(stage.runtime.info.size_range or own, []).append(stage)
    passes = []
    for sizes, group in groups.items():
        parents = [by_name[stage.against] for stage in group if stage.against != "pytorch"]
        needed = dict.fromkeys(stage.name for stage in (*parents, *group))
        ordered = tuple(stage for stage in stages if stage.name in needed)
        passes.append(Pass(ordered, frozenset(stage.name for stage in group), sizes))
    return passes


def with_next_step(verdicts: list[StageVerdict]) -> list[StageVerdict]:
    """Tell the first failure what to do, with BUNDLE for its path; the ones after it may be its consequences."""
    for number, verdict in enumerate(verdicts):
        if verdict.status == "failed":
            kind, _, name = verdict.stage.partition(" ")
            steps = {
                "onnx": f"`protoseg verify BUNDLE --images DIR --bisect {name}` names the operation that differs.",
                "symmetric": "Build engines of fp16 or bf16, or export with a smaller --max-drop: then less is int8.",
                "openvino": "Run this precision with ONNX Runtime, or another with OpenVINO: BUNDLE@fp32@openvino.",
                "engine": "Build it again with `protoseg build BUNDLE`; if it fails again, build fp32 and compare.",
            }
            verdicts[number] = verdict.model_copy(update={"next_step": steps[kind]})
            break
    return verdicts
