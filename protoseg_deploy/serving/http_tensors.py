"""Inference requests and answers over HTTP: JSON, with Triton's binary extension for the content of tensors.

A body begins with a JSON document. Where the header ``Inference-Header-Content-Length`` gives its length, the content
of the tensors that have a parameter ``binary_data_size`` follows, in their order.
"""

import base64
import json
import zlib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protoseg_deploy.serving.requests import (
    InferRequest,
    InferResponse,
    InputTensor,
    OutputTensor,
    RequestError,
    refuse_unsupported,
)

HEADER_LENGTH = "inference-header-content-length"
MOST_JSON_BYTES = 32 * 2**20
"""Of the JSON document of a request: parsed, it takes many times its size."""
_MOST_TENSORS = 64


class _Document(BaseModel):
    """Unknown keys are extensions of the protocol."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


Axis = Annotated[int, Field(ge=0, lt=2**31)]


class _Input(_Document):
    name: str
    datatype: str
    shape: Annotated[list[Axis], Field(max_length=8)]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


class _Output(_Document):
    name: str
    parameters: dict[str, Any] = {}


class _Request(_Document):
    id: str = ""
    parameters: dict[str, Any] = {}
    inputs: Annotated[list[_Input], Field(max_length=_MOST_TENSORS)]
    outputs: Annotated[list[_Output], Field(max_length=_MOST_TENSORS)] = []


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, frozenset[str] | None]:
    """Read a body.

    Args:
        body: uncompressed.
        header_length: value of the header; None: the body is JSON alone.

    Returns:
        The request, and which outputs are to come as binary data; None: all.

    Raises:
        RequestError: it is no request of the protocol.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    if length > MOST_JSON_BYTES:
        raise RequestError(
            "too large", f"JSON of {length:,} bytes; up to {MOST_JSON_BYTES:,} are taken: send pixels as binary data"
        )
    try:
        document = _Request.model_validate_json(body[:length])
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if not body.lstrip()[:1] == b"{":
            raise RequestError(
                "invalid",
                "the body is no JSON document: an image is the content of the input 'images', of datatype BYTES",
            ) from None
        place = ".".join(map(str, first["loc"][:4]))
        raise RequestError(
            "invalid", f"not an inference request: {place + ': ' if place else ''}{first['msg'][:200]}"
        ) from None
    inputs, position = [], length
    for tensor in document.inputs:
        size = tensor.parameters.get("binary_data_size")
        data: Any = tensor.data
        if size is not None:
            if not isinstance(size, int) or size < 0 or position + size > len(body):
                raise RequestError("invalid", f"input {tensor.name[:100]!r}: binary_data_size goes beyond the body")
            data = memoryview(body)[position : position + size]
            position += size
        elif data is None:
            raise RequestError("invalid", f"input {tensor.name[:100]!r} has neither data nor binary_data_size")
        elif tensor.datatype == "BYTES":
            data = [_from_text(element) for element in data]
        inputs.append(InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data, tensor.parameters))
    if position != len(body):
        raise RequestError("invalid", f"{len(body) - position} bytes follow that belong to no input")
    refuse_unsupported((*document.inputs, *document.outputs))
    outputs = tuple(output.name for output in document.outputs)
    return InferRequest(tuple(inputs), outputs, document.id), _binary_outputs(document)


def write_response(response: InferResponse, binary: frozenset[str] | None) -> tuple[bytes, dict[str, str]]:
    """Body and headers of an answer.

    Args:
        response: of the model.
        binary: names of outputs whose content follows the JSON document; None: all.
    """
    described, contents = [], []
    for tensor in response.outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary is None or tensor.name in binary:
            contents.append(tensor.raw())
            entry["parameters"] = {"binary_data_size": len(contents[-1])}
        else:
            entry["data"] = _elements(tensor)
        described.append(entry)
    document: dict[str, Any] = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": described,
    }
    if response.id:
        document["id"] = response.id
    header = json.dumps(document, separators=(",", ":")).encode()
    if not contents:
        return header, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
    return b"".join([header, *contents]), headers


def decompressed(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """A body whose compression is undone.

    Args:
        body: as it came.
        encoding: value of ``Content-Encoding``; empty: none.
        most_bytes: a body that would be longer is refused while it is decompressed.

    Raises:
        RequestError: another encoding than gzip and deflate, damaged, or too long.
    """
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "deflate"):
        raise RequestError("invalid", f"Content-Encoding is gzip, deflate or nothing, not {encoding[:20]!r}")
    machine = zlib.decompressobj(wbits=47)  # of either kind, by their headers
    try:
        whole = machine.decompress(body, most_bytes + 1)
    except zlib.error:
        raise RequestError("invalid", f"the body is not {encoding}, or it is damaged") from None
    if len(whole) > most_bytes:
        raise RequestError("too large", f"the body has more than {most_bytes:,} bytes once it is decompressed")
    if not machine.eof or machine.unused_data:
        raise RequestError("invalid", f"the {encoding} body is cut off, or something follows it")
    return whole


def _length(text: str, body: int) -> int:
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) > body:
        raise RequestError("invalid", f"Inference-Header-Content-Length {text[:20]!r} is no length within the body")
    return int(text)


def _from_text(element: Any) -> Any:
    """An element of ``BYTES`` in JSON: base64, as JSON holds no bytes."""
    try:
        return base64.b64decode(element, validate=True)
    except (TypeError, ValueError):
        raise RequestError("invalid", "elements of BYTES in JSON are base64; or send binary data") from None


def _elements(tensor: OutputTensor) -> list[Any]:
    if isinstance(tensor.values, tuple):
        return [base64.b64encode(element).decode() for element in tensor.values]
    elements: list[Any] = tensor.values.ravel().tolist()
    return elements


def _binary_outputs(document: _Request) -> frozenset[str] | None:
    every = document.parameters.get("binary_data_output") is True
    if not document.outputs:
        return None if every else frozenset()
    return frozenset(o.name for o in document.outputs if o.parameters.get("binary_data", every) is True)
