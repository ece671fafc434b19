"""The numbers stored in a graph: all there, inside the bundle, and finite."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_tensor

from protoseg_deploy.errors import ProtosegError

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_BOUNDS = frozenset({"Add", "Cast", "Clip", "Expand", "Identity", "Max", "Min", "Pad", "Where"})
"""Operators that take infinity for a bound or a mask: the softmax of a masked attention, a range with an open end."""
_HINT = "It is damaged, or made from a network that had diverged: export it again from a sound network."


def check_stored_weights(model: ModelProto, file: Path) -> None:
    """Refuse a graph with numbers that are missing, elsewhere or not finite.

    Weights outside the graph lie in ``FILE.data`` beside it, as `protoseg export` writes them above 2 GB.

    Args:
        model: read without its external weights.
        file: where it was read from.

    Raises:
        ProtosegError: the offending tensor is named.
    """
    for graph in _graphs(model.graph):
        bounds = _used_as_bounds(graph)
        for tensor in _tensors(graph):
            _check(tensor, tensor.name in bounds, file)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                named = TensorProto()
                named.CopyFrom(attribute.t)
                named.name = node.output[0] if node.output else ""
                yield named


def _used_as_bounds(graph: GraphProto) -> set[str]:
    """Values that go nowhere but into operators to which infinity means something."""
    bounds = {name for node in graph.node if node.op_type in _BOUNDS for name in node.input}
    others = {name for node in graph.node if node.op_type not in _BOUNDS for name in node.input}
    return bounds - others


def _check(tensor: TensorProto, is_bound: bool, file: Path) -> None:
    name = str(tensor.name)[:120]
    if tensor.data_location == TensorProto.EXTERNAL:
        tensor = _with_its_data(tensor, file)
    if tensor.data_type not in _FLOATS:
        return  # whether they are complete ONNX Runtime tells
    try:
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise ProtosegError(f"{file}: its weight {name} is damaged: {error}", _HINT) from None
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if nan or (infinite and not is_bound):
        what = f"NaN ({nan}" if nan else f"infinity ({infinite}"
        raise ProtosegError(f"{file} cannot be used: its weight {name} holds {what} of {values.size} numbers)", _HINT)


def _with_its_data(tensor: TensorProto, file: Path) -> TensorProto:
    """A copy with the numbers that lie outside the graph."""
    wanted = f"{file.name}.data"
    location = ExternalDataInfo(tensor).location
    if location != wanted:
        raise ProtosegError(
            f"{file}: its weight {str(tensor.name)[:120]} lies in {str(location)[:200]!r}; weights outside a graph lie "
            f"in {wanted} beside it",
            _HINT,
        )
    loaded = TensorProto()
    loaded.CopyFrom(tensor)
    try:
        load_external_data_for_tensor(loaded, str(file.absolute().parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProtosegError(f"{file}: its weights in {wanted} cannot be read: {first_line[:200]}", _HINT) from None
    return loaded
