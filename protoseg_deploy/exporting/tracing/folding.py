"""The division by the standard deviation, done once at the export instead of for every image."""

from collections.abc import Mapping

import onnx
from onnx import helper, numpy_helper


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
