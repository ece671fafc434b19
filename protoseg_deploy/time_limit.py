"""Calls into libraries that do not return: ended with a message, after a limit that the program sets.

A graph may hold a loop without an end, and a compiler of graphs may never be done. Python cannot interrupt such a call.
Some libraries can be told from another thread to stop; where that does not help, nothing but the end of the process
does. Only the owner of a process may decide that: there is no limit until `limit_calls` sets one, as the command line
does.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from protoseg_deploy.errors import ProtosegError

DEFAULT_SECONDS = 600.0
MOST_SECONDS = 1e7
"""Four months; clocks end somewhere."""
_GRACE_SECONDS = 10.0
"""A call that was told to stop has so long to do so."""
_HINT = "Allow more with --timeout SECONDS, or set PROTOSEG_TIMEOUT."


class TimeLimitError(ProtosegError):
    """A call took longer than the limit and was stopped."""


@dataclass(eq=False)
class _Call:
    what: str
    seconds: float
    deadline: float
    stop: Callable[[], object] | None
    stopped: bool = False

    def message(self) -> str:
        return f"{self.what} did not return within {self.seconds:g} s"


def limit_calls(seconds: float | None) -> float | None:
    """Set the limit of this process; None: no limit.

    Args:
        seconds: above 0, at most `MOST_SECONDS`.

    Returns:
        The limit so far.
    """
    global _seconds
    before, _seconds = _seconds, seconds
    return before


def current_limit() -> float | None:
    """The limit of this process in seconds, to be set in others; None: no limit."""
    return _seconds


@contextmanager
def time_limit(what: str, *, times: int = 1, stop: Callable[[], object] | None = None) -> Iterator[None]:
    """The block is ended when it takes longer than the limit of the process.

    Costs a few microseconds where there is a limit.

    Args:
        what: the call, for the message: ``opening model.onnx``.
        times: of the limit, for what is known to take long.
        stop: makes the block return or raise, called from another thread; must not wait. Without it, or where
            the block continues, the process ends with the message and exit code 1.

    Raises:
        TimeLimitError: the block was stopped.
    """
    if _seconds is None:
        yield
        return
    seconds = times * _seconds
    call = _Call(what, seconds, time.monotonic() + seconds, stop)
    _watchdog.add(call)
    try:
        yield
    except Exception:
        if not call.stopped:
            raise
    finally:
        _watchdog.remove(call)
    if call.stopped:
        raise TimeLimitError(call.message(), _HINT)


_seconds: float | None = None


class _Watchdog:
    """One thread that knows all calls under way; it sleeps until the first of them is due."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._calls: set[_Call] = set()
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    def add(self, call: _Call) -> None:
        with self._changed:
            self._calls.add(call)
            if self._thread is None:
                self._wakes = call.deadline
                self._thread = threading.Thread(target=self._watch, name="time limit", daemon=True)
                self._thread.start()
            elif call.deadline < self._wakes:
                self._changed.notify()

    def remove(self, call: _Call) -> None:
        with self._changed:
            self._calls.discard(call)

    def _watch(self) -> None:
        while True:
            with self._changed:
                now = time.monotonic()
                for call in [call for call in self._calls if call.deadline <= now]:
                    self._end(call, now)
                # Without a call it is as if one had just begun: then most later ones need not wake it.
                self._wakes = min((call.deadline for call in self._calls), default=now + (_seconds or DEFAULT_SECONDS))
                self._changed.wait(self._wakes - now)

    def _end(self, call: _Call, now: float) -> None:
        if call.stop is None or call.stopped:
            _end_process(f"Error: {call.message()}: the program ends here\n{_HINT}\n")
        else:
            call.stopped, call.deadline = True, now + _GRACE_SECONDS
            call.stop()


def _end_process(message: str) -> None:
    os.write(2, message.encode(errors="replace"))  # no lock that the stuck thread may hold
    os._exit(1)


_watchdog = _Watchdog()


def _forget_calls() -> None:
    """A forked process has the calls of its parent, but not the thread."""
    global _watchdog
    _watchdog = _Watchdog()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_calls)
