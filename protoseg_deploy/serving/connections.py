"""Connections of the HTTP server: those that never send a request are closed, and a wish for HTTP/2 is ignored."""

import asyncio
import re
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER_SECONDS = 30.0
"""For the line and the headers of a request, from its first byte; of the first request, from the connection on. How
long a connection may be idle between requests is the business of uvicorn."""
_WISH = re.compile(rb"(?<=\r\n)upgrade:[ \t]*h2c[ \t]*\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


class HttpProtocol(AutoHTTPProtocol):  # type: ignore[misc,valid-type]
    """A connection of uvicorn, which waits for the headers of a request without an end.

    Some clients, such as that of Java, offer to go on with HTTP/2 (``Upgrade: h2c``). A server may ignore that; the
    parser takes the body for the other protocol instead.
    """

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if not self._has_request():
            head, end, rest = data.partition(_HEAD_END)
            data = _WISH.sub(b"", head + b"\r\n") + end[2:] + rest if end else data
            if self._waiting is None:
                self._wait()
        super().data_received(data)
        if self._has_request():
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(HEADER_SECONDS, self._close_without_request)

    def _close_without_request(self) -> None:
        self._waiting = None
        self.transport.close()

    def _has_request(self) -> bool:
        """Whether one is being received or answered."""
        return self.cycle is not None and not self.cycle.response_complete
