"""The Open Inference Protocol (KServe v2) over gRPC; messages and servicer are those of Triton's client library."""

import asyncio
import time
from typing import Any, NoReturn

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2, service_pb2_grpc

from protoseg_deploy.serving import descriptions
from protoseg_deploy.serving.access_log import AccessLog
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.guard import Guard
from protoseg_deploy.serving.model import Model
from protoseg_deploy.serving.requests import (
    ErrorKind,
    InferRequest,
    InferResponse,
    InputTensor,
    RequestError,
    refuse_unsupported,
)

_CODES: dict[ErrorKind, grpc.StatusCode] = {
    "invalid": grpc.StatusCode.INVALID_ARGUMENT,
    "unauthorized": grpc.StatusCode.UNAUTHENTICATED,
    "not found": grpc.StatusCode.NOT_FOUND,
    "too large": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "busy": grpc.StatusCode.UNAVAILABLE,
    "timeout": grpc.StatusCode.DEADLINE_EXCEEDED,
    "internal": grpc.StatusCode.INTERNAL,
}
_CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
_MOST_ID = 200


class GrpcService(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """All of one server's answers over gRPC.

    Args:
        catalog: its models.
        access_log: gets a line for each inference request.
        guard: of all but health.
    """

    def __init__(self, catalog: Catalog, access_log: AccessLog, guard: Guard) -> None:
        self._catalog = catalog
        self._access_log = access_log
        self._guard = guard

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ServerReadyResponse(ready=self._catalog.is_ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        await self._require_token(context)
        try:
            self._catalog.get(request.name, request.version)
        except RequestError:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=not self._catalog.stopping)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        await self._require_token(context)
        return _filled(service_pb2.ServerMetadataResponse(), descriptions.server_metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        metadata = descriptions.model_metadata(await self._model(request, context))
        del metadata["parameters"]  # the message has no place for them: they are in the configuration
        return _filled(service_pb2.ModelMetadataResponse(), metadata)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        config = descriptions.model_config(await self._model(request, context))
        return _filled(service_pb2.ModelConfigResponse(), {"config": config})

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        if request.name:
            models: tuple[Model, ...] = (await self._model(request, context),)
        else:
            await self._require_token(context)
            models = self._catalog.models()
        found = [descriptions.model_statistics(model) for model in models]
        return _filled(service_pb2.ModelStatisticsResponse(), {"model_stats": found})

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        await self._require_token(context)
        index = descriptions.repository_index(self._catalog, ready_only=request.ready)
        return _filled(service_pb2.RepositoryIndexResponse(), {"models": index})

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """One inference request."""
        started, size = time.perf_counter(), request.ByteSize()
        error: RequestError | None = None
        response: InferResponse | None = None
        try:
            self._check_token(context)
            model = self._catalog.get(request.model_name, request.model_version)
            with self._guard.admission() as admission:
                admission.add(size)
                response = await model.infer(_read(request))
                return _written(response)
        except RequestError as caught:
            error = caught
            await _refuse(context, caught)
        except asyncio.CancelledError:
            error = RequestError("invalid", "the client has gone")
            raise
        finally:
            client, identifier = str(context.peer()), request.id[:_MOST_ID]
            self._access_log.add("grpc", request.model_name, identifier, started, size, response, error, client)

    async def _model(self, request: Any, context: Any) -> Model:
        await self._require_token(context)
        try:
            return self._catalog.get(request.name, request.version)
        except RequestError as error:
            await _refuse(context, error)

    async def _require_token(self, context: Any) -> None:
        try:
            self._check_token(context)
        except RequestError as error:
            await _refuse(context, error)

    def _check_token(self, context: Any) -> None:
        self._guard.require_token(dict(context.invocation_metadata() or ()).get("authorization", ""))


def _read(request: Any) -> InferRequest:
    refuse_unsupported((*request.inputs, *request.outputs))
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise RequestError("invalid", f"{len(raw)} raw contents for {len(request.inputs)} inputs")
    inputs = []
    for number, tensor in enumerate(request.inputs):
        if any(axis < 0 or axis >= 2**31 for axis in tensor.shape):
            raise RequestError("invalid", f"input {tensor.name[:100]!r}: no axis is negative or above 2**31")
        if raw and tensor.HasField("contents"):
            raise RequestError("invalid", f"input {tensor.name[:100]!r} has contents and raw contents: one is enough")
        kind = _CONTENTS.get(tensor.datatype, "uint_contents")
        data = raw[number] if raw else list(getattr(tensor.contents, kind))
        inputs.append(InputTensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    return InferRequest(tuple(inputs), tuple(output.name for output in request.outputs), request.id)


def _written(response: InferResponse) -> Any:
    message = service_pb2.ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    for tensor in response.outputs:
        message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        message.raw_output_contents.append(tensor.raw())
    return message


async def _refuse(context: Any, error: RequestError) -> NoReturn:
    await context.abort(_CODES[error.kind], error.message)
    raise AssertionError("an aborted call has ended")


def _filled(message: Message, content: dict[str, Any]) -> Any:
    return json_format.ParseDict(content, message)
