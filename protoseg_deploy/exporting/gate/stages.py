"""The stages of the gate: which artefacts a bundle has, what each was made from, and what it has to keep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np

from protoseg_deploy.bundles.bundle import Bundle, verified_as
from protoseg_deploy.bundles.manifest import Manifest
from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.bundles.verdicts import Limits, StageVerdict
from protoseg_deploy.choices import Backend, Precision
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.backends import SPECS as SPECS_OF_BACKENDS
from protoseg_deploy.runtimes.base import Runtime, UInt8Array
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.tiling import fit_image
from protoseg_deploy.text import shown


def int8_limits(max_drop: float) -> Limits:
    """Limits of int8 with another loss of mIoU allowed, in points.

    Raises:
        UsageError: that is no loss; NaN above all, which no loss is larger than.
    """
    if isinstance(max_drop, bool) or not isinstance(max_drop, (int, float)) or not 0 <= max_drop < math.inf:
        raise UsageError(f"int8 may lose a number of points of mIoU from 0 on, not {shown(max_drop)}")
    return SPECS["int8"].limits.model_copy(update={"max_miou_drop_points": max_drop})


SizeRange = tuple[tuple[int, int], tuple[int, int]]

StageKind = Literal["onnx", "symmetric", "engine"] | Backend
"""A graph; the int8 graph as TensorRT takes it, see `protoseg_deploy.exporting.int8.symmetry`; an engine; or a graph
under a backend with verdicts of its own."""
_SYMMETRIC = "symmetric int8"
_NEXT_STEPS = {
    "onnx": "`protoseg verify BUNDLE --images DIR --bisect {of}` names the operation that differs.",
    "symmetric": "Build engines of fp16 or bf16, or export with a smaller --max-drop: then less is int8.",
    "engine": "Build it again with `protoseg build BUNDLE`; if it fails again, build fp32 and compare.",
} | {backend: spec.next_step for backend, spec in SPECS_OF_BACKENDS.items() if spec.library}


@dataclass(frozen=True)
class Stage:
    """One artefact that can be compared, or the reason why it cannot."""

    kind: StageKind
    of: str
    """The precision, or the name of the engine."""
    artefact: str
    precision: Precision
    against: str
    limits: Limits
    runtime: Runtime | None
    reason: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind} {self.of}"


def exported_limits(manifest: Manifest) -> dict[Precision, Limits]:
    int8 = manifest.graphs.get("int8")
    allowed = None if int8 is None else int8.conversion.get("max_drop_points")
    limits = {precision: spec.limits for precision, spec in SPECS.items()}
    return limits if allowed is None else {**limits, "int8": int8_limits(allowed)}


def find_stages(
    bundle: Bundle, device: str, backends: Sequence[Backend], limits: Mapping[Precision, Limits]
) -> list[Stage]:
    """Every artefact of a bundle, opened; which compares its files with their checksums.

    Args:
        bundle: what it belongs to.
        device: where ONNX Runtime computes.
        backends: compute every graph with these, too.
        limits: by precision.
    """
    stages, folder, manifest = [], bundle.folder, bundle.manifest
    for precision, graph in manifest.graphs.items():
        against = "pytorch" if precision == "fp32" else "onnx fp32"
        runtime = open_runtime(folder, device=device, precision=precision)
        stages.append(Stage("onnx", precision, graph.file, precision, against, limits[precision], runtime))
    for backend, (precision, graph) in product(backends, manifest.graphs.items()):
        other, reason = _opened(folder, precision=precision, backend=backend)
        artefact, against = verified_as(graph.file, SPECS_OF_BACKENDS[backend].library), f"onnx {precision}"
        limit = limits[precision]
        stages.append(Stage(backend, precision, artefact, precision, against, limit, other, reason))
    twins = {entry.graph for entry in manifest.engines.values() if entry.graph not in manifest.files_of_graphs()}
    for twin in sorted(twins):
        runtime = open_runtime(folder / twin, device=device)
        stages.append(Stage("symmetric", "int8", twin, "int8", "onnx fp32", limits["int8"], runtime))
    for name, entry in manifest.engines.items():
        against = _SYMMETRIC if entry.graph in twins else f"onnx {entry.precision}"
        held_to = limits["fp16" if entry.precision == "fp32" else entry.precision]
        engine, reason = _opened(folder / entry.file)
        stages.append(Stage("engine", name, entry.file, entry.precision, against, held_to, engine, reason))
    return stages


def _opened(path: Path, **options: Any) -> tuple[Runtime | None, str]:
    """A runtime, or why this machine has none for it: no GPU, another GPU, no bf16; no error of the artefact."""
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
            next_step = _NEXT_STEPS[verdict.kind].format(of=verdict.of)
            verdicts[number] = verdict.model_copy(update={"next_step": next_step})
            break
    return verdicts
