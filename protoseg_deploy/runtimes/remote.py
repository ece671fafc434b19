"""A model on an inference server as a runtime: our own server, or Triton with a repository of `protoseg serve-repo`."""

import os
import random
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT, check_class_map
from protoseg_deploy.bundles.service import ServiceFacts, of_version
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.base import RuntimeInfo, UInt8Array, check_images
from protoseg_deploy.server_address import ModelAddress

TOKEN_VARIABLE = "PROTOSEG_TOKEN"  # noqa: S105
CERTIFICATES_VARIABLE = "SSL_CERT_FILE"
"""Certificates that are trusted in place of those of the system, PEM."""
_TRIES, _TRIES_OF_WORK = 6, 8
"""Of opening, as an address may be mistyped; and of a request: some 13 s, in which a server starts again."""
_FIRST_PAUSE_S = 0.1
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


class RemoteRuntime:
    """A model on a server. It may be used from several threads: each has a connection of its own.

    Requests that were not answered because the connection failed, or because the server was busy or starting, are sent
    again a few times: inference changes nothing on the server. What the server refuses is not.

    Args:
        address: of the model.
        timeout_s: for one request.
        tries: of a request in all; 1: never again.

    Raises:
        ServerError: there is no such server or model.
        ProtosegError: the server does not say what its model is, see `ServiceFacts`.
        UsageError: the client library is not installed.
    """

    def __init__(self, address: ModelAddress, *, timeout_s: float = 600.0, tries: int = _TRIES_OF_WORK) -> None:
        self._address, self._timeout_s, self._tries = address, timeout_s, tries
        self._connections = threading.local()
        self._known: set[str] = set()  # versions that are the artefact that was opened
        self._facts = self._read_facts(address.version, min(tries, _TRIES))
        metadata = self._facts.metadata
        classes = metadata.classes.table()
        self._info = RuntimeInfo(
            kind="server",
            path=str(address),
            classes=classes,
            ignore_index=metadata.ignore_index,
            precision=metadata.precision,
            device="remote",
            backend=self._facts.backend,
            threads=0,
            parameters=metadata.parameters,
            file_bytes=self._facts.file_bytes,
            reading=metadata.reading,
            masks=self._facts.masks.reading(classes, metadata.reading) if self._facts.masks else None,
            fixed_size=metadata.fixed_size,
            verified=self._facts.verified,
            sha256=self._facts.sha256,
        )

    @property
    def info(self) -> RuntimeInfo:
        return self._info

    @property
    def facts(self) -> ServiceFacts:
        """What the server says of its artefact."""
        return self._facts

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`.

        Raises:
            ServerError: no answer after several tries, the server refuses the request, or it has another artefact now.
            ProtosegError: the answer is no class map of these images.
        """
        check_images(images, self._info)
        class_map, version = self._retried(lambda connection: connection.infer(images), self._tries)
        if version not in self._known:
            self._require_same(self._read_facts(version, self._tries))
            self._known.add(version)
        check_class_map(class_map, images, len(self._info.classes), str(self._address))
        return class_map

    def _read_facts(self, version: str, tries: int) -> ServiceFacts:
        parameters = self._retried(lambda connection: connection.parameters(version), tries)
        return ServiceFacts.from_parameters(parameters, str(self._address))

    def _require_same(self, facts: ServiceFacts) -> None:
        """Results of one call are of one artefact, although a server exchanges its bundle while it runs."""
        if facts.sha256 != self._facts.sha256:
            now, then = (f"{one.metadata.precision} {one.sha256[:12]}" for one in (facts, self._facts))
            raise ServerError(
                self._address,
                f"another artefact answers now, {now}; it was {then} at the beginning",
                "The bundle was exchanged on the server meanwhile: begin again, or serve the earlier one.",
            )

    def bind(self, images: UInt8Array) -> Callable[[], object]:
        """See `Runtime.bind`: a whole request, as nothing of it can be left out from here."""
        return lambda: self.predict(images)

    def _retried(self, call: Callable[[Connection], T], tries: int) -> T:
        pause = _FIRST_PAUSE_S
        for attempt in range(tries):
            try:
                return call(self._connection())
            except ServerError as error:
                if not error.passes or attempt == tries - 1:
                    raise
                self._connections.__dict__.clear()
                self._known.clear()  # a server that was started again counts its versions anew
            time.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that clients do not come back all at once
            pause *= 2
        raise AssertionError("the last try raises")

    def _connection(self) -> Connection:
        if getattr(self._connections, "connection", None) is None:
            self._connections.connection = _connect(self._address, self._timeout_s)
        connection: Connection = self._connections.connection
        return connection


def _connect(address: ModelAddress, timeout_s: float) -> Connection:
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
