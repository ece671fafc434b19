"""A model on an inference server as a runtime: our own server, or Triton with a repository of `protoseg serve-repo`."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from protoseg_deploy.bundles.contract import check_class_map
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.runtimes.base import RuntimeInfo, TimedPrediction, UInt8Array, check_images
from protoseg_deploy.runtimes.server_connections import Connection, ServerError, connect
from protoseg_deploy.runtimes.server_times import ServerTimes
from protoseg_deploy.server_address import ModelAddress

_TRIES, _TRIES_OF_WORK = 6, 8
"""Of opening, as an address may be mistyped; and of a request: some 13 s, in which a server starts again."""
_FIRST_PAUSE_S = 0.1
T = TypeVar("T")


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

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """See `Runtime.predict_timed`: the whole request, as its parts happen elsewhere; see `server_times`."""
        begin = time.perf_counter_ns()
        class_map = self.predict(images)
        return TimedPrediction(class_map, arrays_ns=time.perf_counter_ns() - begin)

    def server_times(self) -> ServerTimes | None:
        """What the server has counted so far; None where it does not tell."""
        try:
            return self._retried(lambda connection: connection.times(), 1)
        except ServerError:
            return None

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
            self._connections.connection = connect(self._address, self._timeout_s)
        connection: Connection = self._connections.connection
        return connection
