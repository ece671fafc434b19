"""float16 and bfloat16 graphs on a processor that computes neither.

ONNX Runtime's CPU provider has hardly any bfloat16 kernels. float16 it accepts, but computes in float32 throughout: it
drops the rounding between two nodes, so that a value too large for float16 passes unnoticed. Here every node of low
precision takes float32 and what it gives is rounded to its type, which is what the types of the graph say and what a
GPU does. Only the order in which a sum is accumulated is left to the kernel, as it is on any device.
"""

from onnx import ModelProto, NodeProto, TensorProto, helper

from protoseg_deploy.bundles.element_types import element_types

_LOW = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def has_low_precision(model: ModelProto) -> bool:
    """Whether anything in a graph is stored as, or cast to, float16 or bfloat16."""
    casts = any(a.name == "to" and a.i in _LOW for node in model.graph.node for a in node.attribute)
    return casts or any(weight.data_type in _LOW for weight in model.graph.initializer)


def emulate_rounding(model: ModelProto) -> ModelProto:
    """The same graph with its nodes of low precision computed in float32 and their results rounded.

    Weights stay in low precision, external ones where they are; the session folds their casts. Every value keeps its
    name and its type.

    Args:
        model: a typed graph; untouched.
    """
    types = element_types(model)
    emulated = ModelProto()
    emulated.CopyFrom(model)
    graph = emulated.graph
    graph.ClearField("node")
    widened: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type == "Cast" or not any(types.get(name) in _LOW for name in (*node.input, *node.output)):
            graph.node.append(node)
            continue
        for name in node.input:
            if types.get(name) in _LOW and name not in widened:
                widened[name] = f"{name}_widened"
                graph.node.append(_cast(name, widened[name], TensorProto.FLOAT))
        rounded = [name for name in node.output if types.get(name) in _LOW]
        computed = NodeProto()
        computed.CopyFrom(node)
        computed.input[:] = [widened.get(name, name) for name in node.input]
        computed.output[:] = [f"{name}_computed" if name in rounded else name for name in node.output]
        graph.node.append(computed)
        graph.node.extend(_cast(f"{name}_computed", name, types[name]) for name in rounded)
    return emulated


def _cast(source: str, target: str, element_type: int) -> NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=element_type)
