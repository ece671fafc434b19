"""Which nodes of a float32 graph can be computed in low precision without harm, and with gain.

Low precision is for what lies between the first and the last convolution or matrix product. Of that, float32 remains:

- normalisations and softmax;
- statistics (means, powers, roots) and the arithmetic that follows them up to the next layer;
- nodes whose weights the type cannot hold;
- what does not depend on the pixels, such as shape arithmetic; but not its matrix products (resampled position
  embeddings), because engines for GPUs of compute capability 7.5 have none in float32;
- pieces between such nodes that hold no convolution or product: two casts cost more than they gain.

So images are normalised, and logits are upsampled and compared, in float32.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from protoseg_deploy.bundles.element_types import element_types
from protoseg_deploy.bundles.precisions import low_type
from protoseg_deploy.choices import Precision


def _operators(names: str) -> frozenset[str]:
    return frozenset(names.split())


_PRODUCTS = _operators("Conv ConvTranspose MatMul Gemm")
_ARITHMETIC = _operators("Add Sub Mul Div Neg Abs Max Min Clip Where")
_MOVEMENT = _operators(
    "Reshape Transpose Concat Slice Split Squeeze Unsqueeze Flatten Expand Gather Pad Tile Identity "
    "DepthToSpace SpaceToDepth"
)
_ACTIVATIONS = _operators("Relu LeakyRelu PRelu Elu Selu Celu Sigmoid HardSigmoid HardSwish Tanh Erf Gelu Swish Mish")
_SAMPLING = _operators("MaxPool AveragePool Resize")
_LOW = _PRODUCTS | _ARITHMETIC | _MOVEMENT | _ACTIVATIONS | _SAMPLING
_STATISTICS = _operators(
    "ReduceMean ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceMax ReduceMin ReduceLogSumExp "
    "GlobalAveragePool Pow Sqrt Reciprocal Exp Log CumSum"
)
SIZES = frozenset({"Shape", "Size"})
"""Operators that ask for the sides of a value, not for its content."""


@dataclass(frozen=True)
class PrecisionPlan:
    """Nodes by their place in the graph, values by their name."""

    low: frozenset[int]
    """Nodes to compute in low precision."""
    kept: frozenset[int]
    """Nodes that see pixels and stay in float32."""
    out_of_range: tuple[str, ...]
    """Names of nodes kept because the type cannot hold their weights."""
    types: dict[str, int]
    """Element type of every value, as it is in float32."""
    opset: int

    def typed_inputs(self, node: NodeProto) -> list[int]:
        """Positions of the float32 inputs that share the type of the output.

        The scales of a ``Resize`` do not, nor does the condition of a ``Where``.
        """
        return _typed_inputs(node, self.opset, self.types)


def plan_precision(model: ModelProto, precision: Precision, keep: frozenset[str] = frozenset()) -> PrecisionPlan:
    """Choose the nodes of a float32 graph to compute in low precision.

    Args:
        model: a float32 graph, every node in opset ``ai.onnx``.
        precision: ``fp16`` or ``bf16``.
        keep: names of nodes to leave in float32 in any case.
    """
    nodes = list(model.graph.node)
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    types = element_types(model)
    weights = {weight.name: weight for weight in model.graph.initializer}
    seeing = _followers(nodes, {value.name for value in model.graph.input})
    products = {place for place in seeing if nodes[place].op_type in _PRODUCTS}
    after = _followers(nodes, {name for place in products for name in nodes[place].output})
    between = products | (after & _ancestors(nodes, products))

    low: set[int] = set()
    out_of_range: list[str] = []
    statistics: set[str] = set()
    for place in sorted(seeing):
        node = nodes[place]
        follows = node.op_type in _ARITHMETIC | _MOVEMENT and statistics.intersection(node.input)
        if node.op_type in _STATISTICS or follows:
            statistics.update(node.output)
        elif place in between and node.name not in keep and _exists_in(node, precision, opset, types):
            if all(_holds(precision, node, n, weights) for n in _typed_inputs(node, opset, types)):
                low.add(place)
            else:
                out_of_range.append(node.name)
    low = _connected(nodes, low, products)
    low |= {
        place
        for place, node in enumerate(nodes)
        if place not in seeing
        and node.op_type == "MatMul"
        and node.name not in keep
        and types.get(node.output[0]) == TensorProto.FLOAT
    }
    kept = {p for p in seeing - low if any(types.get(name) == TensorProto.FLOAT for name in nodes[p].output)}
    return PrecisionPlan(frozenset(low), frozenset(kept), tuple(out_of_range), types, opset)


def _followers(nodes: list[NodeProto], values: set[str]) -> set[int]:
    """Nodes that depend on the content of some values."""
    found, values = set(), set(values)
    for place, node in enumerate(nodes):
        if node.op_type not in SIZES and values.intersection(node.input):
            found.add(place)
            values.update(node.output)
    return found


def _ancestors(nodes: list[NodeProto], places: Iterable[int]) -> set[int]:
    """Nodes on which some nodes depend."""
    source = _sources(nodes)
    found: set[int] = set()
    waiting = list(places)
    while waiting:
        for name in nodes[waiting.pop()].input:
            place = source.get(name)
            if place is not None and place not in found:
                found.add(place)
                waiting.append(place)
    return found


def _connected(nodes: list[NodeProto], low: set[int], products: set[int]) -> set[int]:
    """The nodes of `low` that a path of low values joins to a product."""
    source = _sources(nodes)
    neighbours: dict[int, set[int]] = defaultdict(set)
    for place in low:
        for name in nodes[place].input:
            other = source.get(name)
            if other is not None and other in low:
                neighbours[place].add(other)
                neighbours[other].add(place)
    found: set[int] = set()
    waiting = list(low & products)
    while waiting:
        place = waiting.pop()
        if place not in found:
            found.add(place)
            waiting.extend(neighbours[place])
    return found


def _sources(nodes: list[NodeProto]) -> dict[str, int]:
    return {name: place for place, node in enumerate(nodes) for name in node.output if name}


def _exists_in(node: NodeProto, precision: Precision, opset: int, types: dict[str, int]) -> bool:
    """Whether the operator is one for low precision and is defined for the type."""
    if node.op_type not in _LOW or node.domain or types.get(node.output[0]) != TensorProto.FLOAT:
        return False
    if node.op_type in low_type(precision).kept_operators:
        return False
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    return low_type(precision).onnx_name in allowed[schema.outputs[0].type_str]


def _typed_inputs(node: NodeProto, opset: int, types: dict[str, int]) -> list[int]:
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    last = len(schema.inputs) - 1
    return [
        number
        for number, name in enumerate(node.input)
        if types.get(name) == TensorProto.FLOAT
        and schema.inputs[min(number, last)].type_str == schema.outputs[0].type_str
    ]


def _holds(precision: Precision, node: NodeProto, number: int, weights: dict[str, TensorProto]) -> bool:
    """Whether the type can hold a weight. A factor must not vanish either; a small summand may."""
    weight = weights.get(node.input[number])
    if weight is None:
        return True
    values = np.abs(numpy_helper.to_array(weight))
    largest = float(values[np.isfinite(values)].max(initial=0.0))
    limit, normal = low_type(precision).largest, low_type(precision).smallest
    is_factor = number < 2 and node.op_type in _PRODUCTS | {"Mul", "Div"}
    return largest <= limit and not (is_factor and 0 < largest < normal)
