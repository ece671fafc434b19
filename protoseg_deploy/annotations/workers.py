"""A function over many jobs in several processes, in order, with few of them under way: memory stays flat."""

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from protoseg_deploy.errors import ProtosegError

T = TypeVar("T")
R = TypeVar("R")

_FEW = 64
"""Jobs that are done before processes have started."""
_AHEAD = 8
"""Jobs of each process that wait."""


def _leave_signals_to_parent() -> None:
    """Ctrl-C reaches all processes of a terminal, and each would show a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def worker_count(wanted: int | None, total: int | None) -> int:
    """How many processes: as wanted, or one per core where there is work for them; 0 is this process."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return 0 if cores == 1 or (total is not None and total <= _FEW) else cores


def in_order(function: Callable[[T], R], jobs: Iterable[T], workers: int) -> Iterator[R]:
    """Results in the order of the jobs.

    Args:
        function: of a module, so that other processes can import it.
        jobs: as they are made; few are held at a time.
        workers: processes; 0: this one.

    Raises:
        ProtosegError: a process ended, as one that the system kills for its memory; or what the function raises.
    """
    if workers == 0:
        yield from map(function, jobs)
        return
    context = multiprocessing.get_context("spawn")
    ahead: deque[Future[R]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_signals_to_parent) as pool:
        try:
            for job in jobs:
                ahead.append(pool.submit(function, job))
                if len(ahead) >= workers * _AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool:
            raise ProtosegError(
                "a worker process ended, as one does that the system stops for its memory",
                "Repeat the command with --workers 0, or with fewer workers, and --skip-existing.",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
