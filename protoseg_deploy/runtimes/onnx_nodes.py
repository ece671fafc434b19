"""ONNX nodes, written one after the other."""

from dataclasses import dataclass, field
from typing import Any

from onnx import NodeProto, TensorProto, helper


@dataclass
class Nodes:
    """Nodes that are appended one by one."""

    prefix: str
    nodes: list[NodeProto] = field(default_factory=list)

    def op(self, kind: str, *inputs: str | int | float | list[int], output: str = "", **attributes: Any) -> str:
        """A node and the name of what it gives; numbers among its inputs become constants."""
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        output = output or f"{self.prefix}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], name=f"{self.prefix}_{kind}_{output}", **attributes))
        return output

    def _constant(self, value: int | float | list[int]) -> str:
        kind = TensorProto.FLOAT if isinstance(value, float) else TensorProto.INT64
        shape = [len(value)] if isinstance(value, list) else []
        numbers = value if isinstance(value, list) else [value]
        return self.op("Constant", value=helper.make_tensor("", kind, shape, numbers))

    def as_float(self, value: str) -> str:
        return self.op("Cast", value, to=TensorProto.FLOAT)
