"""Which element type each value of a graph has."""

import onnx
from onnx import ModelProto, TensorProto

# Shape inference reads small constants (target shapes, axes); the values of the weights tell it nothing.
_LARGE_ELEMENTS = 1024


def element_types(model: ModelProto) -> dict[str, int]:
    """``TensorProto`` element type by value name: inputs, initializers and every node output.

    The weights are left out of what is inferred from, so that graphs of any size pass.

    Raises:
        onnx.shape_inference.InferenceError: the types in the graph contradict each other.
    """
    skeleton = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = skeleton.graph
    graph.name = model.graph.name or "graph"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for weight in model.graph.initializer:
        if _elements(weight) <= _LARGE_ELEMENTS and weight.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(weight)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    inferred = onnx.shape_inference.infer_shapes(skeleton, check_type=True, strict_mode=True).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}
    return types | {weight.name: weight.data_type for weight in model.graph.initializer}


def _elements(tensor: TensorProto) -> int:
    count = 1
    for side in tensor.dims:
        count *= side
    return count
