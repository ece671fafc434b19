"""A float32 graph as a float16 or bfloat16 graph whose types say what is computed in which precision.

Engines of today (TensorRT 11, TensorRT-RTX) take the types of a graph at their word, so precision is decided here,
once, for every engine. No library does it for both types: the converters of onnxconverter-common and onnxruntime know
float16 only, go by a list of operators, and would round image normalisation, shape arithmetic and upsampled logits too.
"""

from collections import Counter
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxscript import ir, version_converter

from protoseg_deploy.bundles.precisions import low_type
from protoseg_deploy.choices import Precision
from protoseg_deploy.exporting.low_precision.plan import (
    SIZES,
    PrecisionPlan,
    plan_precision,
)


def cast_graph(
    model: ModelProto, precision: Precision, keep: frozenset[str] = frozenset()
) -> tuple[ModelProto, dict[str, Any]]:
    """A typed graph of low precision; inputs and outputs keep their names and types.

    Args:
        model: a float32 graph of this program; untouched.
        precision: ``fp16`` or ``bf16``; a bf16 graph has opset 22 at least, the first to allow it.
        keep: names of nodes to leave in float32.

    Returns:
        The graph, and what was done, for the manifest: number of nodes by operator that are ``low`` and ``kept`` in
        float32 (of those that see pixels), number of ``casts`` added, and the names ``out_of_range`` of nodes that were
        kept because the type cannot hold their weights.
    """
    typed = _at_least_opset(model, low_type(precision).opset)
    plan = plan_precision(typed, precision, keep)
    counts = {
        name: dict(sorted(Counter(typed.graph.node[place].op_type for place in places).items()))
        for name, places in (("low", plan.low), ("kept", plan.kept))
    }
    rewriting = _Rewriting(typed, precision, plan)
    rewriting.run()
    return typed, {**counts, "casts": rewriting.casts, "out_of_range": list(plan.out_of_range)}


def _at_least_opset(model: ModelProto, opset: int) -> ModelProto:
    """A copy of a graph, converted to a later opset if it has an earlier one."""
    if next(entry.version for entry in model.opset_import if entry.domain == "") >= opset:
        copy = ModelProto()
        copy.CopyFrom(model)
        return copy
    representation = ir.serde.deserialize_model(model)
    version_converter.convert_version(representation, opset)
    return ir.serde.serialize_model(representation)


class _Rewriting:
    """Casts where precision changes, weights converted, nothing left over.

    A value keeps its name in the precision in which it is computed, but for graph outputs, which keep it in float32.
    """

    def __init__(self, model: ModelProto, precision: Precision, plan: PrecisionPlan) -> None:
        self.graph = model.graph
        self.precision, self.plan = precision, plan
        self.nodes = list(model.graph.node)
        self.source = {name: node for node in self.nodes for name in node.output if name}
        self.weights = {weight.name for weight in self.graph.initializer}
        self.outputs = {value.name for value in self.graph.output}
        self.low_values = {
            name for place in plan.low for name in self.nodes[place].output if plan.types.get(name) == TensorProto.FLOAT
        }
        self.written: list[NodeProto] = []
        self.cast: set[str] = set()

    @property
    def casts(self) -> int:
        return len(self.cast)

    def run(self) -> None:
        for place, node in enumerate(self.nodes):
            if place in self.plan.low:
                self._lower(node)
            else:
                self._feed_float32(node)
            self.written.append(node)
        for name in sorted(self.outputs & self.low_values):
            self._add_cast(self._low_name(name), name, TensorProto.FLOAT)
        self._drop_unused()
        self._convert_weights()

    def _lower(self, node: NodeProto) -> None:
        for number in self.plan.typed_inputs(node):
            name = node.input[number]
            node.input[number] = self._low_name(name)
            if name not in self.weights | self.low_values:
                self._add_cast(self._before_cast(name), node.input[number], low_type(self.precision).element_type)
        node.output[:] = [self._low_name(name) if name in self.low_values else name for name in node.output]

    def _feed_float32(self, node: NodeProto) -> None:
        for number, name in enumerate(node.input):
            if name not in self.low_values:
                continue
            if node.op_type in SIZES:
                node.input[number] = self._low_name(name)
                continue
            node.input[number] = name if name in self.outputs else f"{name}_fp32"
            self._add_cast(self._low_name(name), node.input[number], TensorProto.FLOAT)

    def _low_name(self, name: str) -> str:
        computed_low = name in self.low_values and name not in self.outputs
        return name if computed_low else f"{name}_{self.precision}"

    def _before_cast(self, name: str) -> str:
        """What a value was cast from, if that was bytes: both types hold them exactly, so one cast does."""
        node = self.source.get(name)
        if node is not None and node.op_type == "Cast" and self.plan.types[node.input[0]] == TensorProto.UINT8:
            return str(node.input[0])
        return name

    def _add_cast(self, source: str, target: str, element_type: int) -> None:
        if target not in self.cast:
            self.cast.add(target)
            self.written.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=element_type))

    def _drop_unused(self) -> None:
        used = set(self.outputs)
        kept: list[NodeProto] = []
        for node in reversed(self.written):
            if used.intersection(node.output):
                used.update(node.input)
                kept.append(node)
        self.graph.ClearField("node")
        self.graph.ClearField("value_info")
        self.graph.node.extend(reversed(kept))

    def _convert_weights(self) -> None:
        """Weights keep their names unless some node needs them in float32 as well."""
        used = {name for node in self.graph.node for name in node.input}
        weights = list(self.graph.initializer)
        self.graph.ClearField("initializer")
        renamed: dict[str, str] = {}
        for weight in weights:
            if weight.name in used:
                self.graph.initializer.append(weight)
            low_name = self._low_name(weight.name)
            if low_name in used:
                renamed[low_name] = low_name if weight.name in used else weight.name
                # what a type cannot hold stays infinite: -inf in a mask
                values = numpy_helper.to_array(weight).astype(low_type(self.precision).array_type)
                self.graph.initializer.append(numpy_helper.from_array(values, renamed[low_name]))
        for node in self.graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
