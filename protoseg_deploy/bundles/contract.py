"""What every graph and engine of this program takes and gives; what differs is refused when it is opened.

One input ``images``, uint8 ``[N,H,W,3]``. Outputs: ``class_map`` ``[N,H,W]``, uint8 up to 256 classes and int32 above;
where asked for ``confidence``, uint8 ``[N,H,W]``, and ``logits``, float32 ``[N,C,H,W]``. N is free, H and W are free or
both bound, as the metadata say. What an artefact really gives is looked at again at every call, see `check_class_map`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto, ValueInfoProto

from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.errors import ProtosegError

INPUT, CLASS_MAP = "images", "class_map"
_HINT = "It is not as `protoseg export` and `protoseg build` write it: export or build it again."

Axis = int | str | None
"""A number, a name, or unknown."""


@dataclass(frozen=True)
class Port:
    """An input or output of an artefact, as far as it says."""

    name: str
    dtype: str
    """``uint8``, ``int32``, ``float32``; or what it is if no tensor."""
    shape: tuple[Axis, ...] | None
    """None: not even the number of axes is known."""

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.name}: {self.dtype} of unknown shape"
        return f"{self.name}: {self.dtype} [{', '.join('?' if axis is None else str(axis) for axis in self.shape)}]"


def check_ports(source: Path, inputs: Sequence[Port], outputs: Sequence[Port], metadata: GraphMetadata) -> None:
    """Compare inputs and outputs with what the metadata promise.

    Raises:
        ProtosegError: everything that differs, as expected and as found.
    """
    size: tuple[Axis, Axis] = metadata.fixed_size or ("height", "width")
    images = Port(INPUT, "uint8", ("batch", *size, 3))
    if len(inputs) != 1 or not _fits(inputs[0], images, inputs[0]):
        faults = [_differs("inputs", [images], inputs)]
    else:
        faults = _output_faults(outputs, images, inputs[0], len(metadata.classes.names))
    if faults:
        message = "\n".join([f"{source} does not have the inputs and outputs of its metadata:", *faults])
        raise ProtosegError(message, _HINT)


def graph_ports(graph: GraphProto) -> tuple[list[Port], list[Port]]:
    """Inputs, without the weights that a graph may list among them, and outputs."""
    weights = {weight.name for weight in graph.initializer}
    return [_port(value) for value in graph.input if value.name not in weights], [_port(v) for v in graph.output]


def check_class_map(class_map: NDArray[Any], images: NDArray[np.uint8], classes: int, source: Path | str) -> None:
    """Refuse what is no class map of these images.

    The largest index is looked for in every call: it needs several 20 µs per megapixel, negligible next to a network.

    Args:
        class_map: the output.
        images: ``[B,H,W,3]`` that went in.
        classes: of the artefact.
        source: its path or address, for the message.

    Raises:
        ProtosegError: it has another size than the images, or holds an index that is no class.
    """
    if class_map.shape != images.shape[:3]:
        raise ProtosegError(
            f"{source} gives class maps of {list(class_map.shape)} for images of {list(images.shape)}: "
            f"expected {list(images.shape[:3])}",
            _HINT,
        )
    largest, smallest = int(class_map.max()), 0 if class_map.dtype == np.uint8 else int(class_map.min())
    if largest >= classes or smallest < 0:
        wrong = largest if largest >= classes else smallest
        raise ProtosegError(
            f"{source} gives the class index {wrong}, and its metadata name {classes} classes (0 to {classes - 1})",
            _HINT,
        )


def _output_faults(outputs: Sequence[Port], promised: Port, found: Port, classes: int) -> list[str]:
    batch, height, width, _ = promised.shape or ()
    known = {
        CLASS_MAP: Port(CLASS_MAP, "uint8" if classes <= 256 else "int32", (batch, height, width)),
        "confidence": Port("confidence", "uint8", (batch, height, width)),
        "logits": Port("logits", "float32", (batch, classes, height, width)),
    }
    names = [port.name for port in outputs]
    if CLASS_MAP not in names or len(set(names)) < len(names) or not set(names) <= known.keys():
        return [_differs("outputs", [known[CLASS_MAP]], outputs)]
    return [
        _differs("output", [known[port.name]], [port]) for port in outputs if not _fits(port, known[port.name], found)
    ]


def _fits(found: Port, expected: Port, images: Port) -> bool:
    """Names of axes are free, but those of an output have to be those of the input it has the size of."""
    if (found.name, found.dtype) != (expected.name, expected.dtype) or found.shape is None or expected.shape is None:
        return False
    if len(found.shape) != len(expected.shape):
        return False
    called = dict(zip(("batch", "height", "width"), images.shape or (), strict=False))
    return all(_axis_fits(axis, wanted, called) for axis, wanted in zip(found.shape, expected.shape, strict=True))


def _axis_fits(axis: Axis, wanted: Axis, called: dict[str, Axis]) -> bool:
    if isinstance(wanted, int):
        return axis == wanted
    return not isinstance(axis, int) and (axis is None or called.get(str(wanted)) in (None, axis))


def _differs(what: str, expected: Iterable[Port], found: Iterable[Port]) -> str:
    shown = [str(port) for port in found]
    listed = "; ".join(port[:120] for port in shown[:4]) + (" …" if len(shown) > 4 else "")
    return f"  {what}: expected {'; '.join(map(str, expected))}, found {listed or 'none'}"


def _port(value: ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return Port(str(value.name), "no type" if kind is None else kind.removesuffix("_type"), None)
    tensor = value.type.tensor_type
    shape = tuple(_axis(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return Port(str(value.name), _dtype(tensor.elem_type), shape)


def _dtype(number: int) -> str:
    names: dict[int, str] = {value: name.lower() for name, value in TensorProto.DataType.items()}
    names |= {int(TensorProto.FLOAT): "float32", int(TensorProto.DOUBLE): "float64"}
    return names.get(number, f"type {number}")


def _axis(dim: Any) -> Axis:
    kind = dim.WhichOneof("value")
    if kind == "dim_value":
        return int(dim.dim_value)
    return str(dim.dim_param) or None if kind == "dim_param" else None
