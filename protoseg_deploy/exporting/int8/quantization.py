"""A float32 graph as an int8 graph: static quantisation by ONNX Runtime, calibrated on images.

Weights are int8, symmetric, one scale per channel; values are uint8 with a zero point, so that what a rectifier cuts
off costs no levels and the rectifier itself falls out: a range that starts at zero rectifies. That is the form in which
ONNX Runtime and OpenVINO compute whole networks in integers on a CPU. TensorRT knows signed values without zero point
only; `protoseg_deploy.exporting.int8.symmetry` rewrites the graph for it.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.data import read_image
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.evaluation.samples import evenly_spaced
from protoseg_deploy.exporting.int8.calibration import DEFAULT_METHOD, CalibrationMethod, Ranges, value_ranges
from protoseg_deploy.exporting.int8.plan import FLOAT_RESULT, plan_int8
from protoseg_deploy.exporting.int8.sensitivity import GroupNoise, KeptGroup, rank_groups, spend_least
from protoseg_deploy.exporting.tracing.onnx_export import save_graph
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.tiling import fit_image

RECOMMENDED_IMAGES = 300
_RANKING_IMAGES = 4


@dataclass(frozen=True)
class QuantizationReport:
    """How a graph became int8."""

    method: CalibrationMethod
    images: int
    """It was calibrated on so many,"""
    images_sha256: str
    """by names and contents."""
    quantized_nodes: int
    kept_groups: tuple[str, ...]
    """Parts of the network left in float32 for the sake of accuracy."""
    steps: tuple[KeptGroup, ...]
    """What was tried, in order; the last one that fits the budget was taken. Empty if nothing could be measured."""
    fp32_percent: float | None
    """mIoU of the float32 graph, as `evaluate` measures it."""
    int8_percent: float | None
    drop_points: float | None
    max_drop_points: float
    warnings: tuple[str, ...]

    def to_conversion(self) -> dict[str, Any]:
        """For the manifest: plain JSON values."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content


def quantize_graph(
    graph: Path,
    target: Path,
    images: Sequence[Path],
    *,
    method: CalibrationMethod = DEFAULT_METHOD,
    count: int = RECOMMENDED_IMAGES,
    evaluate: Callable[[Path], float] | None = None,
    max_drop: float = 1.0,
    progress: Callable[[int, int], object] | None = None,
) -> QuantizationReport:
    """Write an int8 graph that loses no more accuracy than allowed.

    If all of the network in int8 loses more than `max_drop`, the parts of it that suffer most stay in float32: as few
    as measuring finds, see `protoseg_deploy.exporting.int8.sensitivity`.

    Args:
        graph: a float32 graph of this program.
        target: file to write.
        images: to calibrate on, read one by one at their own size; what a graph with a fixed input size does not take
            is cropped or mirrored at the borders.
        method: how ranges are found, see `value_ranges`.
        count: images to use, 1 or more, evenly spaced over the list.
        evaluate: mIoU of a graph file in percent; without it nothing is measured and everything is quantised.
        max_drop: points of mIoU the int8 graph may lose.
        progress: called with (images calibrated on, images in all).

    Raises:
        UsageError: there are no images.
        DataError: an image cannot be read.
        ProtosegError: not a graph of this program, or no int8 graph loses as little as asked for.
    """
    if not images:
        raise UsageError(
            "int8 needs images to calibrate on, and there are none",
            "Name a folder of unlabelled images in the recipe (data.unlabeled), or give one to the export.",
        )
    chosen = evenly_spaced(images, count)
    model = load_float32(graph)
    metadata = _metadata(model, graph)
    plan = plan_int8(model)
    report_image = None if progress is None else lambda done: progress(done, len(chosen))
    ranges = value_ranges(model, plan.values, _read(chosen, metadata), method, report_image)

    def build(keep: frozenset[str]) -> ModelProto:
        return quantize_model(model, ranges, keep)

    steps: tuple[KeptGroup, ...] = ()
    reference: float | None = None
    if evaluate is None:
        best = build(frozenset())
    else:

        def rank() -> list[GroupNoise]:
            return rank_groups(model, plan, build, list(_read(chosen[:_RANKING_IMAGES], metadata)))

        with _measuring(evaluate, target.absolute().parent) as measure:
            reference = evaluate(graph)
            best, steps = spend_least(build, measure, rank, reference, max_drop)
    save_graph(best, target)
    taken = next((step for step in reversed(steps) if step.drop_points <= max_drop), None)
    kept = taken.kept_groups if taken else ()
    return QuantizationReport(
        method=method,
        images=len(chosen),
        images_sha256=_digest(chosen),
        quantized_nodes=len(plan_int8(model, frozenset(kept)).nodes),
        kept_groups=kept,
        steps=steps,
        fp32_percent=reference,
        int8_percent=taken.miou_percent if taken else None,
        drop_points=taken.drop_points if taken else None,
        max_drop_points=max_drop,
        warnings=_warnings(len(chosen)),
    )


@contextmanager
def _measuring(evaluate: Callable[[Path], float], beside: Path) -> Iterator[Callable[[ModelProto], float]]:
    """What gives the mIoU of a graph in memory, by way of a file in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=beside) as folder:
        candidate = Path(folder) / "candidate.onnx"

        def measure(quantized: ModelProto) -> float:
            onnx.save(quantized, candidate)
            return evaluate(candidate)

        yield measure


def quantize_model(model: ModelProto, ranges: Ranges, keep: frozenset[str] = frozenset()) -> ModelProto:
    """Insert the pairs of QuantizeLinear and DequantizeLinear that make a graph int8.

    Args:
        model: a float32 graph of this program; untouched.
        ranges: smallest and largest number of every value of the plan, see `plan_int8`.
        keep: groups of nodes to leave in float32.
    """
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType
    from onnxruntime.quantization.calibrate import TensorsData

    plan = plan_int8(model, keep)
    limits = {name: ranges[name] for name in plan.values}
    limits |= {before: ranges[after] for after, before in plan.rectified.items()}
    arrays = {name: (np.float32(low), np.float32(high)) for name, (low, high) in limits.items()}
    names = set(plan.nodes)
    with _quiet():
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=TensorsData(CalibrationMethod.MinMax, arrays),
            nodes_to_quantize=sorted(names),
            nodes_to_exclude=[],
            op_types_to_quantize=sorted({node.op_type for node in model.graph.node if node.name in names}),
            extra_options={"OpTypesToExcludeOutputQuantization": sorted(FLOAT_RESULT), "MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    quantized: ModelProto = quantizer.model.model
    quantized.graph.ClearField("value_info")
    quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
    metadata = GraphMetadata.from_properties({p.key: p.value for p in model.metadata_props}, "the graph")
    onnx.helper.set_model_props(quantized, metadata.model_copy(update={"precision": "int8"}).to_properties())
    return quantized


def load_float32(graph: Path) -> ModelProto:
    """A graph with a name for every node.

    Raises:
        ProtosegError: it cannot be read, or is too large.
    """
    try:
        model = onnx.load(graph)
    except (OSError, DecodeError) as error:
        raise ProtosegError(f"{graph} cannot be read: {error}", "Export the network again.") from None
    # The calibrators and the sessions that rank take a graph in one piece, which protobuf limits.
    if sum(len(weight.raw_data) for weight in model.graph.initializer) >= onnx.checker.MAXIMUM_PROTOBUF:
        raise ProtosegError(
            f"{graph}: a graph of 2 GB or more cannot be quantised",
            "Leave int8 out, or distil a smaller network first.",
        )
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return model


def _metadata(model: ModelProto, graph: Path) -> GraphMetadata:
    return GraphMetadata.from_properties({p.key: p.value for p in model.metadata_props}, str(graph))


def _read(images: Sequence[Path], metadata: GraphMetadata) -> Iterator[UInt8Array]:
    fixed = metadata.fixed_size
    for path in images:
        image = read_image(path, metadata.reading)
        yield image if fixed is None else fit_image(image, fixed)


def _digest(images: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in images:
        digest.update(os.fsencode(path.name) + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _warnings(count: int) -> tuple[str, ...]:
    if count >= RECOMMENDED_IMAGES:
        return ()
    return (
        f"int8 was calibrated on {count} images; below {RECOMMENDED_IMAGES} rare values may be clipped: give it more "
        "unlabelled images if you have them",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """ONNX Runtime gives advice to developers through the root logger."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        root.setLevel(before)
