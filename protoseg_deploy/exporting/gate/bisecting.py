"""Which operation of a graph first computes something else: two graphs with the same tensor names, tensor by tensor.

The graphs of all precisions are made from the fp32 graph and keep the names of its tensors; the fp32 graph itself is
compared with a fresh export of the network the bundle carries. So one walk through the graph answers the question for
every stage.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.element_types import element_types
from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.manifest import GRAPH_FILE, Manifest
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.choices import Precision
from protoseg_deploy.data import read_image
from protoseg_deploy.exporting.tracing.onnx_export import GraphOptions, export_onnx
from protoseg_deploy.models import load_network
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.providers import run_session
from protoseg_deploy.runtimes.rounding import emulate_rounding
from protoseg_deploy.runtimes.tiling import fit_image

EQUAL_DB = 150.0
"""Signal-to-noise ratio from which two fp32 tensors are called equal."""
OVERFLOW_DB = -999.0
"""Stands for the ratio of a tensor with numbers that should be finite and are not, or of another shape."""

_SUSPICIOUS_LOSS_DB = 15.0
_SOUND_GAIN = (0.6, 1.6)
"""Rounding adds noise to a tensor, and clipping takes a little from its peaks; neither makes it half or twice as
large."""
_CONVERSIONS = frozenset({"Cast", "QuantizeLinear", "DequantizeLinear"})
_LARGEST_SIDE = 512
_SHOWN = 8


@dataclass(frozen=True)
class ComparedOperation:
    """One compared tensor: how well what goes into its operation agrees, and how well what comes out."""

    operation: str
    """Name of the node that computes it in the examined graph, and of those before it that have no counterpart."""
    kind: str
    """Their operators."""
    inputs_db: float
    output_db: float
    loss_db: float
    gain: float
    """By which factor the found tensor varies more than the expected one; 1 where the expected one is constant."""

    @property
    def wrong(self) -> bool:
        """Whether this is more than rounding, however little of it the class maps show."""
        return self.output_db == OVERFLOW_DB or not _SOUND_GAIN[0] <= self.gain <= _SOUND_GAIN[1]

    @property
    def suspicious(self) -> bool:
        return self.wrong or self.loss_db > _SUSPICIOUS_LOSS_DB

    def describe(self) -> str:
        if self.output_db == OVERFLOW_DB:
            return "returns non-finite values or another shape"
        if self.wrong:
            return f"gives {self.gain:.2f} times the expected values"
        return f"loses {self.loss_db:.0f} dB"


@dataclass(frozen=True)
class Bisection:
    """Where a graph departs from its reference. Ratios are of signal to noise in decibel: 20 more is a tenth of the
    error."""

    graph: str
    against: str
    image: str
    compared: int
    """Tensors that both graphs have."""
    steps: tuple[ComparedOperation, ...]
    """Those that lose most, in the order of the graph."""

    @property
    def culprit(self) -> ComparedOperation | None:
        """The first operation that loses more than its precision explains."""
        return next((step for step in self.steps if step.suspicious), None)

    def summary(self) -> str:
        if self.compared == 0:
            return "The two graphs have no tensor in common: this one was not made from that one. Export again."
        if self.culprit is None:
            return (
                f"No operation loses more than its precision explains ({self.compared} tensors compared): the graph is "
                f"a faithful copy of {self.against}."
            )
        return f"The first error is at {self.culprit.operation} ({self.culprit.kind}): it {self.culprit.describe()}."

    def to_dict(self) -> dict[str, Any]:
        return {
            "graph": self.graph,
            "against": self.against,
            "image": self.image,
            "compared_tensors": self.compared,
            "culprit": None if self.culprit is None else self.culprit.operation,
            "steps": [asdict(step) for step in self.steps],
        }


def bisect_graph(bundle: Bundle, precision: Precision, image: Path) -> Bisection:
    """Compare the tensors of a graph with those of the one it was made from, on one image.

    Args:
        bundle: what it belongs to.
        precision: the graph to examine; ``fp32`` is compared with a fresh export of the bundle's network.
        image: larger ones are cut to their middle 512x512 pixels, all tensors are held in memory.

    Raises:
        UsageError: the bundle has no graph of that precision.
        ProtosegError: the bundle is damaged.
        DataError: the image cannot be read.
    """
    for one in dict.fromkeys((precision, "fp32")):
        bundle.require_graph(one)
        open_graph(bundle.folder, one)
    return bisect_checked(bundle, precision, image)


def bisect_checked(bundle: Bundle, precision: Precision, image: Path) -> Bisection:
    """`bisect_graph` for a bundle whose graphs have been compared with their checksums just now."""
    manifest = bundle.manifest
    path = bundle.folder / manifest.graphs[precision].file
    examined = onnx.load(path)
    if precision == "fp32":
        reference, against = _fresh_export(bundle, examined), "a fresh export"
    else:
        reference, against = onnx.load(bundle.folder / manifest.graphs["fp32"].file), GRAPH_FILE
    if SPECS[precision].low_type is not None:
        examined = emulate_rounding(examined)
    steps = compare_graphs(reference, examined, _picture(image, manifest), precision)
    firsts = (next(filter(is_so, steps), None) for is_so in (lambda step: step.suspicious, lambda step: step.wrong))
    worst = {id(step) for step in (*firsts, *sorted(steps, key=lambda step: -step.loss_db)[:_SHOWN])}
    shown = tuple(step for step in steps if id(step) in worst)
    return Bisection(path.name, against, image.name, len(steps), shown)


def compare_graphs(
    reference: onnx.ModelProto, examined: onnx.ModelProto, image: UInt8Array, precision: Precision
) -> list[ComparedOperation]:
    """Every float tensor that both graphs have, in the order of the examined one.

    Args:
        reference: graph with float32 tensors.
        examined: graph whose tensors of the same names may be of any float type.
        image: ``[1,H,W,3]`` uint8.
        precision: of the examined graph.
    """
    types = element_types(reference)
    floats = {name for node in reference.graph.node for name in node.output if types.get(name) == TensorProto.FLOAT}
    made_by = {name: node for node in examined.graph.node for name in node.output if name}
    shared = [name for name in made_by if name in floats]
    if not shared:
        return []
    stored = _stored(examined)
    as_used = [stored.get(name, name) for name in shared]
    pairs = zip(_tensors(reference, shared, image), _tensors(examined, as_used, image), strict=True)
    ratios, gains = {}, {}
    for name, (expected, found) in zip(shared, pairs, strict=True):
        ratios[name] = _ratio_db(expected, found)
        gains[name] = 1.0 if ratios[name] == OVERFLOW_DB else _gain(expected, found)
    return [_step(name, made_by, ratios, gains[name], precision) for name in shared]


def _step(
    name: str, made_by: dict[str, onnx.NodeProto], ratios: dict[str, float], gain: float, precision: Precision
) -> ComparedOperation:
    nodes, inputs = [made_by[name]], []
    waiting, seen = list(made_by[name].input), {name}
    while waiting:
        tensor = waiting.pop()
        if tensor in ratios:
            inputs.append(ratios[tensor])
        elif tensor in made_by and tensor not in seen:
            seen.add(tensor)
            nodes.append(made_by[tensor])
            waiting.extend(made_by[tensor].input)
    usual = SPECS[precision].sound_db
    incoming = min(inputs, default=EQUAL_DB)
    computing = [node for node in nodes if node.op_type not in _CONVERSIONS] or nodes
    return ComparedOperation(
        operation=" ← ".join(node.name or node.output[0] for node in computing),
        kind=" ← ".join(node.op_type for node in computing),
        inputs_db=incoming,
        output_db=ratios[name],
        loss_db=min(incoming, usual) - min(ratios[name], usual),
        gain=gain,
    )


def _stored(model: onnx.ModelProto) -> dict[str, str]:
    """Quantised tensors by name, and the name of what is read back: quantising may rectify, too."""
    read = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.input[0]: read[node.output[0]]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.output[0] in read
    }


def _tensors(model: onnx.ModelProto, names: Iterable[str], image: UInt8Array) -> list[NDArray[np.float32]]:
    """Values of tensors as float32; whole graph optimisation is off, so that nothing is fused away."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fetched = []
    for number, name in enumerate(names):
        fetched.append(f"fetched:{number}")
        copy.graph.node.append(onnx.helper.make_node("Cast", [name], [fetched[-1]], to=TensorProto.FLOAT))
        copy.graph.output.append(onnx.helper.make_tensor_value_info(fetched[-1], TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with TemporaryDirectory() as folder:
        # Through a file: a graph with external weights does not fit into one message.
        file = Path(folder) / "fetch.onnx"
        onnx.save(copy, file, save_as_external_data=True, location="fetch.data")

        def compute(run_options: Any) -> list[NDArray[np.float32]]:
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            found: list[NDArray[np.float32]] = session.run(fetched, {"images": image}, run_options)
            return found

        values: list[NDArray[np.float32]] = run_session(compute, f"the tensors of {model.graph.name}")
    return values


def _ratio_db(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of what is finite in the expected tensor."""
    finite = np.isfinite(expected)
    if expected.shape != found.shape or not np.isfinite(found[finite]).all():
        return OVERFLOW_DB
    signal = float(np.square(expected[finite], dtype=np.float64).sum())
    noise = float(np.square(expected[finite].astype(np.float64) - found[finite]).sum())
    if noise == 0:
        return EQUAL_DB
    return min(EQUAL_DB, 10 * math.log10(max(signal, 1e-30) / noise))


def _gain(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Slope of the found values over the expected ones, both freed of their means along the last axis.

    Without the means a bias does not hide what happened to the product it was added to.
    """
    if expected.ndim == 0 or not np.isfinite(expected).all():
        return 1.0
    centred = expected.astype(np.float64) - expected.mean(axis=-1, keepdims=True, dtype=np.float64)
    other = found.astype(np.float64) - found.mean(axis=-1, keepdims=True, dtype=np.float64)
    variance = float(np.square(centred).sum())
    constant = variance <= 1e-6 * float(np.square(expected, dtype=np.float64).sum())
    return 1.0 if constant else float((centred * other).sum()) / variance


def _fresh_export(bundle: Bundle, examined: onnx.ModelProto) -> onnx.ModelProto:
    manifest = bundle.manifest
    network, spec = load_network(bundle.reference())
    outputs = {output.name for output in manifest.outputs}
    options = GraphOptions(
        size=manifest.input.fixed_size,
        confidence="confidence" in outputs,
        logits="logits" in outputs,
        opset=manifest.graphs["fp32"].opset,
    )
    metadata = GraphMetadata.from_properties({p.key: p.value for p in examined.metadata_props}, GRAPH_FILE)
    with TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH_FILE
        export_onnx(network, spec, metadata, path, options)
        return onnx.load(path)


def _picture(path: Path, manifest: Manifest) -> UInt8Array:
    image = read_image(path, manifest.input.reading)
    height, width = manifest.input.fixed_size or (min(side, _LARGEST_SIDE) for side in image.shape[:2])
    return fit_image(image, (height, width))[None]
