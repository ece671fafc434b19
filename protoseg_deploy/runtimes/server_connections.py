"""Clients of inference servers: the Open Inference Protocol over HTTP and over gRPC."""

import os
import ssl
import struct
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT
from protoseg_deploy.bundles.service import of_version
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.server_times import ServerTimes
from protoseg_deploy.server_address import ModelAddress

TOKEN_VARIABLE = "PROTOSEG_TOKEN"  # noqa: S105
CERTIFICATES_VARIABLE = "SSL_CERT_FILE"
"""Certificates that are trusted in place of those of the system, PEM."""
_MISREAD = (ValueError, TypeError, LookupError, AttributeError, RecursionError, struct.error)
"""What the client library raises for an answer that is none of the protocol."""
T = TypeVar("T")
Answer = tuple[NDArray[Any], str]
_EXTRA = "pip install 'protoseg-deploy[triton]' adds the client library."


class ServerError(ProtosegError):
    """A server gave no answer, or an error."""

    def __init__(self, address: ModelAddress, reason: str, hint: str = "", *, passes: bool = False) -> None:
        super().__init__(f"{address}: {reason}", hint)
        self.passes = passes
        """Whether the same request may be answered later: it was not begun, or changes nothing when it is repeated."""


class Connection(Protocol):
    """One client of one protocol; used by one thread."""

    def parameters(self, version: str) -> Mapping[str, str]:
        """Parameters of the model's configuration, with the facts of a version; empty: the one the server chooses."""
        ...

    def infer(self, images: UInt8Array) -> Answer:
        """The class maps of a batch, and the version of the model that gave them."""
        ...

    def times(self) -> ServerTimes:
        """What the server has counted so far."""
        ...


def connect(address: ModelAddress, timeout_s: float) -> Connection:
    token = os.environ.get(TOKEN_VARIABLE, "")
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        if address.protocol == "http":
            return _HttpConnection(address, timeout_s, headers)
        return _GrpcConnection(address, timeout_s, headers)
    except ImportError as error:
        raise UsageError(f"{address}: {error.name} is not installed", _EXTRA) from None


class _HttpConnection:
    def __init__(self, address: ModelAddress, timeout_s: float, headers: dict[str, str]) -> None:
        import tritonclient.http as library

        self._address, self._headers, self._library = address, headers, library
        self._client = library.InferenceServerClient(
            address.host,
            ssl=address.secure,
            ssl_context_factory=_tls,
            connection_timeout=min(10.0, timeout_s),
            network_timeout=timeout_s,
        )

    def parameters(self, version: str) -> Mapping[str, str]:
        arguments = (self._address.model, version, dict(self._headers))

        def texts() -> dict[str, str]:
            found = self._client.get_model_config(*arguments).get("parameters", {})
            return {key: str(value.get("string_value", "")) for key, value in found.items()}

        return of_version(self._call(texts), version)

    def infer(self, images: UInt8Array) -> Answer:
        tensor = self._library.InferInput(INPUT, list(images.shape), "UINT8")
        tensor.set_data_from_numpy(np.ascontiguousarray(images))
        wanted = self._library.InferRequestedOutput(CLASS_MAP, binary_data=True)

        def answered() -> Answer:
            answer = self._client.infer(
                self._address.model, [tensor], self._address.version, outputs=[wanted], headers=dict(self._headers)
            )
            return _class_map(self._address, answer), str(answer.get_response().get("model_version", ""))

        return self._call(answered)

    def times(self) -> ServerTimes:
        place = (self._address.model, self._address.version, dict(self._headers))
        return self._call(lambda: ServerTimes.read(self._client.get_inference_statistics(*place)))

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._library.InferenceServerException as error:
            status = (error.status() or "").removeprefix("[").rstrip("]")
            raise _refused(self._address, error.message(), passes=status in ("502", "503", "429")) from None
        except (OSError, HTTPException) as error:  # the second: a connection that was closed in place of an answer
            raise _no_answer(self._address, error) from None
        except _MISREAD as error:
            raise ServerError(
                self._address,
                f"the answer is not of the Open Inference Protocol: {type(error).__name__}: {str(error)[:200]}",
                "Is it the address of an inference server, or does something else answer there?",
            ) from None


class _GrpcConnection:
    def __init__(self, address: ModelAddress, timeout_s: float, headers: dict[str, str]) -> None:
        import tritonclient.grpc as library

        self._address, self._headers, self._timeout_s, self._library = address, headers, timeout_s, library
        roots = os.environ.get(CERTIFICATES_VARIABLE)
        self._client = library.InferenceServerClient(address.host, ssl=address.secure, root_certificates=roots)

    def parameters(self, version: str) -> Mapping[str, str]:
        found = self._call(
            lambda: self._client.get_model_config(
                self._address.model, version, self._headers, client_timeout=self._timeout_s
            )
        )
        texts = {key: str(value.string_value) for key, value in found.config.parameters.items()}
        return of_version(texts, version)

    def infer(self, images: UInt8Array) -> Answer:
        tensor = self._library.InferInput(INPUT, list(images.shape), "UINT8")
        tensor.set_data_from_numpy(np.ascontiguousarray(images))
        wanted = self._library.InferRequestedOutput(CLASS_MAP)

        def answered() -> Answer:
            place = (self._address.model, [tensor], self._address.version)
            answer = self._client.infer(*place, outputs=[wanted], headers=self._headers, client_timeout=self._timeout_s)
            return _class_map(self._address, answer), str(answer.get_response().model_version)

        return self._call(answered)

    def times(self) -> ServerTimes:
        place = (self._address.model, self._address.version, self._headers)
        return self._call(
            lambda: ServerTimes.read(
                self._client.get_inference_statistics(*place, as_json=True, client_timeout=self._timeout_s)
            )
        )

    def _call(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except self._library.InferenceServerException as error:
            status = str(error.status() or "")
            if "UNAVAILABLE" in status:
                raise ServerError(
                    self._address, str(error.message())[:500], _nobody(self._address), passes=True
                ) from None
            raise _refused(self._address, error.message(), passes=False) from None
        except _MISREAD as error:
            raise ServerError(self._address, f"the answer is not as it should be: {str(error)[:200]}") from None


def _tls(**_: object) -> ssl.SSLContext:
    """The library would trust the certificates of another package alone."""
    return ssl.create_default_context(cafile=os.environ.get(CERTIFICATES_VARIABLE))


def _class_map(address: ModelAddress, answer: Any) -> NDArray[Any]:
    found: NDArray[Any] | None = answer.as_numpy(CLASS_MAP)
    if found is None:
        raise ServerError(address, f"the answer holds no {CLASS_MAP}")
    return found


def _refused(address: ModelAddress, message: object, *, passes: bool) -> ServerError:
    hint = ""
    message = str(message or "an error without a message")
    if "token" in message:
        hint = f"Put the token of the server into the environment variable {TOKEN_VARIABLE}."
    return ServerError(address, message[:500], hint, passes=passes)


def _no_answer(address: ModelAddress, error: Exception) -> ServerError:
    reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    if isinstance(error, ssl.SSLError):
        hint = f"The variable {CERTIFICATES_VARIABLE} names the certificates that are trusted, PEM."
        if error.reason == "WRONG_VERSION_NUMBER":
            hint = f"The server speaks no TLS, it seems: http://{address.host}/{address.model}"
        return ServerError(address, f"no connection with TLS: {reason}", hint)
    return ServerError(address, f"no answer: {reason}", _nobody(address), passes=True)


def _nobody(address: ModelAddress) -> str:
    tls = "" if address.secure else f" A server with TLS has {address.protocol}s://."
    return f"Is the server running, and is its address right?{tls}"
