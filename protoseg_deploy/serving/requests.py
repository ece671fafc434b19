"""One inference request and its response, whatever protocol they came by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ErrorKind = Literal["invalid", "unauthorized", "not found", "too large", "busy", "timeout", "internal"]


class RequestError(Exception):
    """A request that gets an error in place of an answer.

    Args:
        kind: decides the status of the protocol.
        message: for the client: what is wrong with its request. Paths of the server have no place in it.
        retry_after_s: for ``busy``.
    """

    def __init__(self, kind: ErrorKind, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message = message
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class InputTensor:
    """A named tensor as the protocol has it."""

    name: str
    datatype: str
    """``UINT8``, ``BYTES``, …"""
    shape: tuple[int, ...]
    data: bytes | memoryview | Sequence[Any]
    """Raw content, or elements in row-major order, nested or not."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InferRequest:
    """What a client asks a model for."""

    inputs: tuple[InputTensor, ...]
    outputs: tuple[str, ...] = ()
    """Names in the order of the answer; none: all outputs of the graph."""
    id: str = ""


@dataclass(frozen=True)
class OutputTensor:
    """A named tensor of an answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | tuple[bytes, ...]
    """An array, or the elements of a ``BYTES`` tensor."""

    def raw(self) -> bytes:
        """Content as binary extensions and gRPC carry it: little-endian, elements of ``BYTES`` with their lengths."""
        if isinstance(self.values, tuple):
            return b"".join(len(element).to_bytes(4, "little") + element for element in self.values)
        return np.ascontiguousarray(self.values).tobytes()


@dataclass(frozen=True)
class InferResponse:
    """Answer of a model."""

    model_name: str
    model_version: str
    id: str
    outputs: tuple[OutputTensor, ...]


DATATYPES = {"uint8": "UINT8", "int32": "INT32", "float32": "FP32"}
"""NumPy's names to those of the protocol, of what graphs give."""


def refuse_unsupported(tensors: Iterable[Any]) -> None:
    """Refuse what Triton's clients may ask for in the parameters of a tensor and this server does not have.

    Args:
        tensors: inputs and outputs of a request, each with `name` and `parameters`.

    Raises:
        RequestError: one asks for it.
    """
    for tensor in tensors:
        for name in ("shared_memory_region", "classification"):
            if name in tensor.parameters:
                raise RequestError("invalid", f"{tensor.name[:100]!r}: {name} is not supported by this server")


def elements_of(data: bytes | memoryview, count: int) -> list[bytes]:
    """Elements of a raw ``BYTES`` tensor.

    Raises:
        RequestError: lengths do not fit the content.
    """
    view, elements, position = memoryview(data), [], 0
    for _ in range(count):
        length = int.from_bytes(view[position : position + 4], "little")
        position += 4
        if position + length > len(view):
            break
        elements.append(bytes(view[position : position + length]))
        position += length
    if len(elements) < count or position != len(view):
        raise RequestError("invalid", f"a BYTES tensor of {count} elements does not have the bytes its lengths say")
    return elements
