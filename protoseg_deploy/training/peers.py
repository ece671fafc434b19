"""A watch over the other processes of a training: one that sends no heartbeat ends all of them, with its number.

A process that ends closes its connections, and what the others wait for fails at once. One that is stopped, or whose
machine has gone, closes nothing. A limit on every exchange would not do: processes rightly wait for long while the
first one writes or clusters for all. So every process counts up a number of its own in the store of ``torchrun`` while
it lives, in a thread, and looks at those of the others.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed as dist
from torch.distributed.distributed_c10d import Store

_LOOK_S = 5.0
"""Seconds from look to look, or a quarter of the limit. Time is counted in looks, so that a machine that was suspended
as a whole finds nobody silent."""
_NO_STORE = "the first process of this training, or torchrun beside it, sent no heartbeat"
_LEFT = 1 << 40
"""Added to its number by a process that needs nobody any more."""


@contextmanager
def watched_peers(store: Store, rank: int, processes: int, timeout_s: float) -> Iterator[None]:
    """End this process, with exit code 1, if another one of the block sends no heartbeat for so long.

    Args:
        store: that all of them share.
        rank: of this process.
        processes: how many there are.
        timeout_s: the limit.
    """
    own = store.clone()  # the thread's: a call of the main thread may hold the connection for as long as it waits
    own.set_timeout(timedelta(seconds=timeout_s))
    ended = threading.Event()
    looks = [0]
    watch = threading.Thread(target=_watch, args=(own, rank, processes, timeout_s, ended, looks), daemon=True)
    watch.start()
    threading.Thread(target=_watch_store, args=(timeout_s, ended, looks), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        watch.join(timeout_s)


def _watch(store: Store, rank: int, processes: int, timeout_s: float, ended: threading.Event, looks: list[int]) -> None:
    look_s = min(_LOOK_S, timeout_s / 4)
    others = [peer for peer in range(processes) if peer != rank]
    counted, silent_s = dict.fromkeys(others, 0), dict.fromkeys(others, 0.0)
    while not ended.wait(look_s):
        try:
            store.add(_key(rank), 1)
            for peer in others:
                count = store.add(_key(peer), 0)
                heard = count != counted[peer] or count >= _LEFT
                counted[peer], silent_s[peer] = count, 0.0 if heard else silent_s[peer] + look_s
            looks[0] += 1
        except (dist.DistError, RuntimeError) as error:
            if not ended.is_set():
                _end(_NO_STORE, str(error))
            return
        silent = [peer for peer in others if silent_s[peer] >= timeout_s]
        if silent and not ended.is_set():
            speaks = min(peer for peer in range(processes) if peer not in silent) == rank
            _end(_silence(silent, timeout_s) if speaks else "")
    try:
        store.add(_key(rank), _LEFT)
    except (dist.DistError, RuntimeError):
        return  # the others have ended, and the store with them


def _watch_store(timeout_s: float, ended: threading.Event, looks: list[int]) -> None:
    """A store whose process is stopped answers neither with a number nor with an error."""
    look_s = min(_LOOK_S, timeout_s / 4)
    seen, silent_s = 0, 0.0
    while not ended.wait(look_s):
        silent_s = 0.0 if looks[0] != seen else silent_s + look_s
        seen = looks[0]
        if silent_s >= timeout_s and not ended.is_set():
            _end(f"{_NO_STORE} for {timeout_s:g} s (train.timeout_s): stopped, or unreachable")


def _key(rank: int) -> str:
    return f"alive-{rank}"


def _silence(silent: list[int], timeout_s: float) -> str:
    who = f"process {silent[0]}" if len(silent) == 1 else f"processes {', '.join(map(str, silent))}"
    return f"{who} of this training sent no heartbeat for {timeout_s:g} s (train.timeout_s): stopped, or unreachable"


def _end(reason: str, detail: str = "") -> None:
    """The main thread waits for the others in native code, where no exception reaches it."""
    if reason:
        lines = [f"Error: {reason}", *detail.splitlines()[:1]]
        lines.append("Resume with the same command and --continue; torchrun does so itself with --max-restarts.")
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    os._exit(1)
