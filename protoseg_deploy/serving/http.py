"""The Open Inference Protocol (KServe v2) over HTTP, with the extensions that Triton's clients use."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from protoseg_deploy.serving import descriptions
from protoseg_deploy.serving.access_log import AccessLog
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.guard import Admission, Guard
from protoseg_deploy.serving.http_tensors import HEADER_LENGTH, decompressed, read_request, write_response
from protoseg_deploy.serving.limits import LARGE_REQUEST_BYTES
from protoseg_deploy.serving.page import page_routes
from protoseg_deploy.serving.requests import ErrorKind, InferRequest, InferResponse, RequestError

_STATUS: dict[ErrorKind, int] = {
    "invalid": 400,
    "unauthorized": 401,
    "not found": 404,
    "too large": 413,
    "busy": 503,
    "timeout": 504,
    "internal": 500,
}
_MOST_ID = 200


class HttpService:
    """All of one server's answers over HTTP.

    Args:
        catalog: its models.
        access_log: gets a line for each inference request.
        guard: of all but health and the files of the page.
    """

    def __init__(self, catalog: Catalog, access_log: AccessLog, guard: Guard) -> None:
        self._catalog = catalog
        self._access_log = access_log
        self._guard = guard

    def application(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2", self._guarded(self._server)),
            Route("/v2/repository/index", self._guarded(self._index), methods=["POST", "GET"]),
            Route("/metrics", self._guarded(self._metrics)),
        ]
        for model in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            routes += [
                Route(model, self._guarded(self._model)),
                Route(f"{model}/ready", self._guarded(self._model_ready)),
                Route(f"{model}/config", self._guarded(self._model_config)),
                Route(f"{model}/stats", self._guarded(self._model_statistics)),
                Route(f"{model}/infer", self._infer, methods=["POST"]),
            ]
        return Starlette(
            routes=[*page_routes(), *routes],
            exception_handlers={HTTPException: _no_such_place, Exception: _unexpected},
        )

    async def _live(self, _: Request) -> Response:
        return Response(status_code=200)

    async def _ready(self, _: Request) -> Response:
        return Response(status_code=200 if self._catalog.is_ready else 503)

    async def _server(self, _: Request) -> Response:
        return _json(descriptions.server_metadata())

    async def _index(self, request: Request) -> Response:
        ready, seconds = False, self._catalog.limits.request_seconds
        with self._guard.admission() as admission:
            if request.method == "POST" and (body := await _body(request, LARGE_REQUEST_BYTES, seconds, admission)):
                try:
                    document = json.loads(body)
                except (ValueError, RecursionError):
                    raise RequestError("invalid", "the body is no JSON document") from None
                ready = isinstance(document, dict) and document.get("ready") is True
        return _json(descriptions.repository_index(self._catalog, ready_only=ready))

    async def _metrics(self, _: Request) -> Response:
        return Response(self._catalog.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _model(self, request: Request) -> Response:
        return _json(descriptions.model_metadata(self._catalog.get(*_model_of(request))))

    async def _model_ready(self, request: Request) -> Response:
        self._catalog.get(*_model_of(request))
        return Response(status_code=503 if self._catalog.stopping else 200)

    async def _model_config(self, request: Request) -> Response:
        return _json(descriptions.model_config(self._catalog.get(*_model_of(request))))

    async def _model_statistics(self, request: Request) -> Response:
        return _json({"model_stats": [descriptions.model_statistics(self._catalog.get(*_model_of(request)))]})

    async def _infer(self, request: Request) -> Response:
        started = time.perf_counter()
        found = InferRequest(())
        name, version = _model_of(request)
        error: RequestError | None = None
        response: InferResponse | None = None
        body = b""
        try:
            self._require_token(request)
            limits = self._catalog.limits
            with self._guard.admission() as admission:
                body = await _body(request, limits.request_bytes, limits.request_seconds, admission)
                found, binary = await _in_thread_if_large(body, read_request, body, request.headers.get(HEADER_LENGTH))
                response = await self._catalog.get(name, version).infer(found)
                content, headers = await _in_thread_if_large(body, write_response, response, binary)
            answer = Response(content, headers=headers)
        except RequestError as caught:
            error = caught
            answer = _error(caught)
        except ClientDisconnect:
            error = RequestError("invalid", "the client has gone")
            answer = _error(error)  # nobody reads it
        except asyncio.CancelledError:
            error = RequestError("invalid", "the client has gone")
            raise
        finally:
            self._access_log.add(
                "http", name, found.id[:_MOST_ID], started, len(body), response, error, _client(request)
            )
        return answer

    def _guarded(self, endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            try:
                self._require_token(request)
                return await endpoint(request)
            except RequestError as error:
                return _error(error)

        return guarded

    def _require_token(self, request: Request) -> None:
        self._guard.require_token(request.headers.get("authorization", ""))


class _BodyNotComeError(RequestError):
    """The rest of the request may come at any time: nothing else can be read from its connection."""


async def _body(request: Request, most_bytes: int, most_seconds: float, admission: Admission) -> bytes:
    """The body, as long as it is not longer than it may be, and does not take longer to come."""
    declared = request.headers.get("content-length", "").lstrip("0")[:20]
    if declared.isdecimal():
        _check_length(int(declared), most_bytes)
    chunks, length = [], 0
    try:
        async with asyncio.timeout(most_seconds):
            async for chunk in request.stream():
                length += len(chunk)
                _check_length(length, most_bytes)
                admission.add(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise _BodyNotComeError("timeout", f"the body has not come within {most_seconds:g} s") from None
    body = b"".join(chunks)
    encoding = request.headers.get("content-encoding", "").lower()
    whole: bytes = await _in_thread_if_large(body, decompressed, body, encoding, most_bytes)
    if whole is not body:
        admission.add(len(whole))
    return whole


def _check_length(length: int, most_bytes: int) -> None:
    if length > most_bytes:
        raise RequestError("too large", f"the body has more than {most_bytes:,} bytes")


async def _in_thread_if_large(body: bytes, call: Callable[..., Any], *arguments: Any) -> Any:
    large = len(body) > LARGE_REQUEST_BYTES
    return await asyncio.to_thread(call, *arguments) if large else call(*arguments)


def _model_of(request: Request) -> tuple[str, str]:
    return request.path_params["name"], request.path_params.get("version", "")


def _client(request: Request) -> str:
    return request.client.host if request.client else ""


def _json(document: Any) -> Response:
    return Response(json.dumps(document, ensure_ascii=False).encode(), media_type="application/json")


def _error(error: RequestError) -> Response:
    headers = {"retry-after": str(max(1, round(error.retry_after_s)))} if error.kind == "busy" else {}
    if error.kind == "unauthorized":
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, _BodyNotComeError):
        headers["connection"] = "close"
    return Response(
        json.dumps({"error": error.message}).encode(),
        status_code=_STATUS[error.kind],
        headers=headers,
        media_type="application/json",
    )


async def _no_such_place(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    text = "no such address, or it takes another method" if status in (404, 405) else "the request is refused"
    return Response(json.dumps({"error": text}).encode(), status_code=status, media_type="application/json")


async def _unexpected(_: Request, _error: Exception) -> Response:
    return Response(b'{"error": "an error of the server; its log says more"}', 500, media_type="application/json")
