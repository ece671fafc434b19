"""Whom a server lets in, and how much of it at a time; the same for every protocol."""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager

from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.requests import RequestError


class Guard:
    """Asks for the token, and refuses requests that would not fit into memory beside those that are under way.

    Args:
        token: what clients have to show as ``Authorization: Bearer TOKEN``; empty: nothing.
        limits: of the server.
    """

    def __init__(self, token: str, limits: Limits) -> None:
        self._token = token.encode()
        self._most = limits.pending_bytes
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Of all requests that have begun to come and are not answered."""
        return self._held

    def require_token(self, shown: str | bytes) -> None:
        """Compare what a client sent as ``Authorization`` with the token.

        Raises:
            RequestError: it is another.
        """
        content = shown if isinstance(shown, bytes) else shown.encode()
        if self._token and not hmac.compare_digest(content, b"Bearer " + self._token):
            raise RequestError("unauthorized", "this server needs a token: Authorization: Bearer TOKEN")

    @contextmanager
    def admission(self) -> Iterator["Admission"]:
        """For the time of a request: what it holds counts until the end of the block."""
        admission = Admission(self)
        try:
            yield admission
        finally:
            self._held -= admission.bytes

    def _take(self, count: int) -> None:
        if self._held and self._held + count > self._most:
            raise RequestError("busy", f"requests of {self._held:,} bytes are under way already")
        self._held += count


class Admission:
    """What one request holds; made by `Guard.admission`."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.bytes = 0

    def add(self, count: int) -> None:
        """Count bytes that have come.

        Raises:
            RequestError: with those of other requests they are too many.
        """
        self._guard._take(count)
        self.bytes += count
