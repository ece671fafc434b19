"""One JSON line for each inference request."""

import json
import time
from datetime import UTC, datetime
from typing import IO

from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.line_writer import LineWriter
from protoseg_deploy.serving.requests import InferResponse, RequestError


class AccessLog:
    """Writes lines, and counts requests.

    Args:
        stream: where to; None: nowhere.
        catalog: the models of the server, and its metrics.
    """

    def __init__(self, stream: IO[str] | None, catalog: Catalog) -> None:
        self._writer = LineWriter(stream) if stream is not None else None
        self._catalog = catalog

    def add(
        self,
        protocol: str,
        model: str,
        request_id: str,
        started: float,
        received_bytes: int,
        response: InferResponse | None,
        error: RequestError | None,
        client: str,
    ) -> None:
        """Note a request that was answered or refused.

        Args:
            protocol: ``http`` or ``grpc``.
            model: as the client named it.
            request_id: of the client.
            started: when it arrived, by `time.perf_counter`.
            received_bytes: of the request.
            response: what it got; None: an error.
            error: why it got none.
            client: its address.
        """
        seconds = time.perf_counter() - started
        status = "ok" if response is not None else error.kind if error is not None else "internal"
        known = model if model in self._catalog.names() else ""  # requests cannot make up labels
        self._catalog.metrics.answered(known, protocol, status, seconds)
        if self._writer is None:
            return
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "protocol": protocol,
            "client": client,
            "model": model[:200],
            "version": response.model_version if response else "",
            "id": request_id,
            "status": status,
            "ms": round(seconds * 1000, 3),
            "bytes": received_bytes,
            "images": response.outputs[0].shape[0] if response and response.outputs else 0,
        }
        if error is not None:
            line["error"] = error.message
        self._writer.add(json.dumps(line))

    def close(self) -> None:
        """Write the last lines, see `LineWriter`."""
        if self._writer is not None:
            self._writer.close()
