"""Work that a graph need not do at every image: what the tracer cannot see, but one look at the whole graph shows.

Both passes leave the function as it is, rounding aside, and do nothing where they do not find what they look for.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Max", "Min"})


def simplify(model: onnx.ModelProto) -> None:
    """Apply both passes, in place."""
    fold_deviation(model.graph)
    join_sizes(model.graph)


def fold_deviation(graph: onnx.GraphProto) -> bool:
    """Move the division by the standard deviation into the weights of the first convolutions.

    The mean stays a subtraction: folded into a bias it would be wrong at the border, where a convolution sees zeros.

    Returns:
        Whether there was one to move: every user of the normalised image must be a convolution (a ``Pad`` with zeros
        may come before it) that shares its weights with nothing else.
    """
    weights = {initializer.name: initializer for initializer in graph.initializer}
    division = _division_of_image(graph, weights)
    if division is None:
        return False
    source, deviation = division.input
    convolutions = _convolutions(graph, division.output[0])
    users = [name for node in graph.node for name in node.input]
    if not convolutions or any(
        node.input[1] not in weights or users.count(node.input[1]) > 1 or weights[node.input[1]].dims[1] != 3
        for node in convolutions
    ):
        return False
    per_channel = numpy_helper.to_array(weights[deviation]).reshape(1, 3, 1, 1)
    for node in convolutions:
        kernel = weights[node.input[1]]
        kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) / per_channel, kernel.name))
    _rename_inputs(graph, {division.output[0]: source})
    graph.node.remove(division)
    _drop_unused(graph)
    return True


def _division_of_image(graph: onnx.GraphProto, weights: Mapping[str, onnx.TensorProto]) -> onnx.NodeProto | None:
    """The ``Div`` by three constants that follows the subtraction of three constants."""
    makers: dict[str, onnx.NodeProto] = {name: node for node in graph.node for name in node.output}
    node: onnx.NodeProto
    for node in graph.node:
        if node.op_type == "Div" and _three_constants(weights, node.input[1]):
            before = makers.get(node.input[0])
            if before is not None and before.op_type == "Reshape":  # the mean is subtracted from flat planes
                before = makers.get(before.input[0])
            if before is not None and before.op_type == "Sub" and _three_constants(weights, before.input[1]):
                return node
    return None


def _three_constants(weights: Mapping[str, onnx.TensorProto], name: str) -> bool:
    return name in weights and list(weights[name].dims) == [1, 3, 1, 1]


def _convolutions(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    """The ungrouped convolutions a value goes to; empty if it goes anywhere else."""
    found = []
    for node in graph.node:
        if name not in node.input:
            continue
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Conv" and node.input[0] == name and attributes.get("group", 1) == 1:
            found.append(node)
        elif node.op_type == "Pad" and attributes.get("mode", b"constant") == b"constant":
            after = _convolutions(graph, node.output[0])
            if not after:
                return []
            found += after
        else:
            return []
    return found


def join_sizes(graph: onnx.GraphProto) -> int:
    """Compute height and width of a resized map as one vector instead of as two numbers that are joined at the end.

    The tracer follows each side on its own, three to six nodes a side for every map that is resized. A node has a
    price even if it adds two numbers: about five microseconds in ONNX Runtime.

    Returns:
        How many pairs were joined.
    """
    joiner = _Joiner(graph)
    replaced: dict[str, str] = {}
    for node in graph.node:
        if node.op_type == "Concat" and len(node.input) == 2 and (vector := joiner.vector(*node.input)) is not None:
            replaced[node.output[0]] = vector
    if replaced:
        _rename_inputs(graph, replaced)
        nodes = [*joiner.nodes, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        graph.initializer.extend(joiner.constants)
        _drop_unused(graph)
    return len(replaced)


class _Joiner:
    """Builds the vector ``[a, b]`` of two numbers that are computed alike from the sides of one tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._inputs = {value.name for value in graph.input}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._numbers = {
            initializer.name: int(value.item())
            for initializer in graph.initializer
            if initializer.data_type == onnx.TensorProto.INT64 and (value := _value(initializer)).size == 1
        }
        self._known: dict[tuple[str, str], str | None] = {}

    def vector(self, first: str, second: str) -> str | None:
        """Name of the vector; None if the two are not computed alike, or not from the shape of a graph input."""
        pair = (first, second)
        if pair not in self._known:
            self._known[pair] = self._build(first, second)
        return self._known[pair]

    def _build(self, first: str, second: str) -> str | None:
        if first in self._numbers and second in self._numbers:
            return self._constant([self._numbers[first], self._numbers[second]])
        left, right = self._makers.get(first), self._makers.get(second)
        if left is None or right is None or left.op_type != right.op_type:
            return None
        if left.op_type in ("Reshape", "Squeeze"):  # between a number and a vector of one number
            return self.vector(left.input[0], right.input[0])
        if left.op_type == "Shape":
            return self._sides(left, right)
        if left.op_type in _ARITHMETIC:
            operands = [self.vector(*pair) for pair in zip(left.input, right.input, strict=True)]
            known = [name for name in operands if name is not None]
            return self._node(left.op_type, known) if len(known) == len(operands) else None
        return None

    def _sides(self, left: onnx.NodeProto, right: onnx.NodeProto) -> str | None:
        """Two neighbouring sides of one graph input."""
        ranges = [{a.name: helper.get_attribute_value(a) for a in node.attribute} for node in (left, right)]
        starts = [int(sides.get("start", 0)) for sides in ranges]
        single = all(sides.get("end") == start + 1 for sides, start in zip(ranges, starts, strict=True))
        if left.input[0] != right.input[0] or left.input[0] not in self._inputs or not single:
            return None
        if starts[1] != starts[0] + 1:
            return None
        return self._node("Shape", [left.input[0]], start=starts[0], end=starts[0] + 2)

    def _node(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"sides_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=f"node_{name}", **attributes))
        return name

    def _constant(self, numbers: Sequence[int]) -> str:
        name = f"sides_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(numbers, dtype=np.int64), name))
        return name


def _value(initializer: onnx.TensorProto) -> NDArray[np.generic]:
    return numpy_helper.to_array(initializer)


def _rename_inputs(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in names:
                node.input[index] = names[name]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and initialisers nothing depends on any more; nodes are in order, so one look from the end is enough."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(node.input)
    initializers = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)
