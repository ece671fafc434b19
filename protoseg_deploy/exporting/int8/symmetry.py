"""An int8 graph as TensorRT takes it: signed values without zero point, biases in float32.

TensorRT's integers are symmetric around zero; a QuantizeLinear with a zero point is refused. What a range loses by
becoming symmetric it loses on every such engine: values that are never negative keep 127 of 255 levels. But for that
the graph computes the same function; where a range began at zero and so rectified, an explicit rectifier takes its
place.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

_ROUNDING = frozenset({"QuantizeLinear", "DequantizeLinear"})
# Give nothing below zero, or nothing that was not below zero before.
_NEVER_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "ReduceMax"})
_PASS_ON = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Concat", "Reshape", "Transpose"})
_LEVELS = 127


def symmetric_graph(model: ModelProto) -> ModelProto:
    """Rewrite the uint8 values of an int8 graph as symmetric int8 ones.

    Args:
        model: a graph of `quantize_graph`; untouched.

    Returns:
        The graph with int8 values and zero points of 0 throughout, and no quantised biases.
    """
    symmetric = ModelProto()
    symmetric.CopyFrom(model)
    _Rewriting(symmetric).run()
    return symmetric


class _Rewriting:
    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.source = {name: node for node in self.graph.node for name in node.output}
        self.written: list[NodeProto] = []

    def run(self) -> None:
        for node in self.graph.node:
            if node.op_type == "DequantizeLinear" and self._type(node.input[0]) == TensorProto.INT32:
                self._set(node.output[0], (self._array(node.input[0]) * self._array(node.input[1])).astype(np.float32))
                continue
            if node.op_type in _ROUNDING and self._type(node.input[2]) == TensorProto.UINT8:
                self._make_symmetric(node)
            self.written.append(node)
        self.graph.ClearField("node")
        self.graph.node.extend(self.written)
        used = {name for node in self.graph.node for name in node.input}
        self.graph.ClearField("initializer")
        self.graph.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)

    def _make_symmetric(self, node: NodeProto) -> None:
        scale, zero = float(self._array(node.input[1])), int(self._array(node.input[2]))
        if node.op_type == "QuantizeLinear" and zero == 0 and not self._is_never_negative(node.input[0]):
            rectified = f"{node.input[0]}_rectified"
            self.written.append(helper.make_node("Relu", [node.input[0]], [rectified], name=f"{node.name}_relu"))
            node.input[0] = rectified
        largest = max(zero, 255 - zero)
        node.input[1], node.input[2] = f"{node.input[1]}_symmetric", f"{node.input[2]}_symmetric"
        self._set(node.input[1], np.array(scale * largest / _LEVELS, dtype=np.float32))
        self._set(node.input[2], np.array(0, dtype=np.int8))

    def _is_never_negative(self, value: str) -> bool:
        node = self.source.get(value)
        if node is None:
            return False
        if node.op_type == "DequantizeLinear":
            # Looked at before or after it was rewritten: a range from zero, or a rectifier before it.
            quantizer = self.source.get(node.input[0])
            return quantizer is not None and quantizer.input[0].endswith("_rectified")
        if node.op_type in _PASS_ON:
            data = node.input if node.op_type == "Concat" else node.input[:1]
            return all(self._is_never_negative(name) for name in data)
        return node.op_type in _NEVER_NEGATIVE

    def _type(self, name: str) -> int:
        return self.constants[name].data_type if name in self.constants else TensorProto.UNDEFINED

    def _array(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])

    def _set(self, name: str, array: NDArray[Any]) -> None:
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
