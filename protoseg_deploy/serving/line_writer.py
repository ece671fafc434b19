"""Lines to a stream that may be slow, full or gone: whoever hands them over never waits."""

import logging
import os
import queue
import threading
from typing import IO

_log = logging.getLogger(__name__)
_MOST_WAITING = 10_000
_ENDS_WITHIN_S = 1.0


class LineWriter:
    """A thread that writes lines.

    A pipe that nobody reads takes no more at some time; what does not fit into the queue then is left out. After an
    error, such as a full disk, the next line is tried again. The log of the server says so once.

    Args:
        stream: with a file descriptor. Its own buffer is not used: at the end of the program it might not be written.
        most_waiting: lines in the queue.
    """

    def __init__(self, stream: IO[str], most_waiting: int = _MOST_WAITING) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(most_waiting)
        self._told = False
        self._thread: threading.Thread | None = None

    def add(self, line: str) -> None:
        """Write a line soon, or leave it out."""
        if self._thread is None:
            descriptor = os.dup(self._stream.fileno())
            self._thread = threading.Thread(target=self._work, args=[descriptor], name="access log", daemon=True)
            self._thread.start()
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._tell("whoever reads it is too slow")

    def close(self) -> None:
        """Write what is waiting, unless that takes long, and end."""
        if self._thread is None:
            return
        try:
            self._lines.put(None, timeout=_ENDS_WITHIN_S)
        except queue.Full:
            return
        self._thread.join(_ENDS_WITHIN_S)

    def _work(self, descriptor: int) -> None:
        cut_off = False
        while (line := self._lines.get()) is not None:
            rest = ("\n" * cut_off + line + "\n").encode()
            try:
                while rest:
                    written = os.write(descriptor, rest)
                    cut_off, rest = True, rest[written:]
                cut_off = False
            except OSError as error:
                self._tell(error.strerror or str(error))
        os.close(descriptor)

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            _log.warning("lines of the access log are left out: %s", reason)
