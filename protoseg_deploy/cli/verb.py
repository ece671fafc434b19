"""What all commands have in common: how their options are read, and what a signal does to them."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click


class Verb(click.Command):
    """A command that refuses an option with one value where it is given twice: the first would be lost."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in dict.fromkeys(given):
            if not isinstance(parameter, click.Option) or parameter.multiple or parameter.is_flag or parameter.count:
                continue
            if given.count(parameter) > 1:
                raise click.UsageError(f"{parameter.opts[-1]} is given twice; it takes one value.", ctx)
        return super().parse_args(ctx, args)


class VerbFamily(click.Group):
    """A command group."""

    command_class = Verb


class StopRequest:
    """Which signal has asked the command to stop; 0 while none has."""

    def __init__(self) -> None:
        self.received = 0
        self._process = os.getpid()

    def interrupt(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() == self._process:
            self.received = number
            raise KeyboardInterrupt


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """For a block, SIGTERM interrupts like Ctrl-C: what is half written is tidied up.

    Processes that are forked meanwhile are stopped by this one alone.
    """
    request = StopRequest()
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` have it
                before[number] = signal.signal(number, request.interrupt)
    except ValueError:  # not in the main thread: nothing to handle there
        pass
    global _current
    outer, _current = _current, request
    try:
        yield request
    finally:
        _current = outer
        for caught, handler in before.items():
            signal.signal(caught, handler)


_current: StopRequest | None = None


def _leave_signals_to_parent() -> None:
    """In a worker: Ctrl-C reaches all processes of a terminal, and each would show a traceback."""
    if _current is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_signals_to_parent)
