"""A pool of worker processes on this machine. Spawned, so that it is the same on every system."""

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.shards.notes import ShardNotes
from protoseg_deploy.evaluation.shards.rows import ShardResult
from protoseg_deploy.evaluation.shards.spec import ShardSpec
from protoseg_deploy.evaluation.shards.stores import open_store
from protoseg_deploy.evaluation.shards.worker import predict_shard
from protoseg_deploy.time_limit import limit_calls

Setup = Callable[[], object]
"""Called once in every worker process, before anything else; by its name in a module, as it has to be pickled."""

Progress = Callable[[int, int], object]
"""Called with a shard that is being predicted and the number of its images that are done."""

_TOLD_EVERY_S = 0.5
_GRACE_S = 5.0


def count_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_here(
    spec: ShardSpec, shards: Sequence[int], finished: Callable[[ShardResult], object], progress: Progress
) -> None:
    """Predict shards one after the other in this process. Raises as `predict_shard`."""
    for shard in shards:
        finished(predict_shard(spec, shard, partial(progress, shard)))


def run_local(
    spec: ShardSpec,
    shards: Sequence[int],
    workers: int,
    finished: Callable[[ShardResult], object],
    progress: Progress,
    setup: Setup | None = None,
) -> None:
    """Predict shards in worker processes; a process that dies is replaced, and its shard taken up again.

    Workers are gone when the call ends, however it ends; and should this process be killed, they end by themselves.

    Args:
        spec: what is predicted.
        shards: in the order in which they are handed out.
        workers: processes.
        finished: called with every shard that is done, in the order of their ends.
        progress: called now and then.
        setup: see `Setup`.

    Raises:
        ProtosegError: of a worker, see `predict_shard`; or workers keep dying in one shard.
    """
    waiting = deque(shards)
    pool = [_Worker(spec, setup) for _ in range(min(workers, len(shards)))]
    try:
        while waiting or any(worker.shard is not None for worker in pool):
            for worker in pool:
                if worker.shard is None and waiting:
                    worker.give(waiting.popleft())
            busy = [worker for worker in pool if worker.shard is not None]
            ready = connection.wait([worker.connection for worker in busy])
            for worker in busy:
                if worker.connection not in ready:
                    continue
                message = worker.receive()
                if message is None:
                    waiting.appendleft(_buried(spec, worker))
                    pool[pool.index(worker)] = _Worker(spec, setup)
                elif isinstance(message, ShardResult):
                    worker.shard = None
                    finished(message)
                elif worker.shard is not None:
                    progress(worker.shard, message)
    finally:
        for worker in pool:
            worker.stop()
        for worker in pool:
            worker.wait()


def _buried(spec: ShardSpec, worker: "_Worker") -> int:
    """Write down where a worker has died; its shard."""
    shard = worker.shard
    assert shard is not None
    worker.wait()
    ShardNotes(open_store(spec.out), shard).record_death(_how(worker.process.exitcode))
    return shard


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with code {code}"
    with suppress(ValueError):
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (too little memory, as a rule)" if name == "SIGKILL" else "")
    return f"killed by signal {-code}"


class _Worker:
    """A worker process, seen from outside."""

    def __init__(self, spec: ShardSpec, setup: Setup | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.shard: int | None = None
        self.process: BaseProcess = context.Process(target=_serve, args=(other, spec, setup), daemon=True)
        self.process.start()
        other.close()  # so that its end is noticed

    def give(self, shard: int) -> None:
        self.shard = shard
        with suppress(OSError):  # it has died: `receive` will say so
            self.connection.send(shard)

    def receive(self) -> ShardResult | int | None:
        """A finished shard, a number of images done, or None: it has died. Raises the error of the worker."""
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            return None
        if kind == "error":
            raise rebuilt(content)
        message: ShardResult | int = content
        return message

    def stop(self) -> None:
        with suppress(OSError):
            self.connection.close()
        self.process.terminate()

    def wait(self) -> None:
        self.process.join(_GRACE_S)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()


def described(error: Exception) -> dict[str, Any]:
    """An error in a form that every process can read."""
    if isinstance(error, ProtosegError):
        return {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
    return {"bug": "".join(traceback.format_exception(error))}


def rebuilt(description: dict[str, Any]) -> Exception:
    """The error of another process; one that is a bug of ours has its traceback as message."""
    if "bug" in description:
        return RuntimeError(f"in a worker:\n{description['bug']}")
    error = ProtosegError(description["message"], description["hint"])
    error.exit_code = description["exit_code"]
    return error


def _serve(to_parent: Connection, spec: ShardSpec, setup: Setup | None) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent deals with it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    limit_calls(spec.call_limit_s)
    try:
        if setup is not None:
            setup()
        while True:
            shard = to_parent.recv()
            try:
                message: tuple[str, Any] = "done", predict_shard(spec, shard, _Teller(to_parent))
            except Exception as error:
                message = "error", described(error)
            to_parent.send(message)
    except (EOFError, ConnectionError):  # the parent has no more work, or is gone
        pass


class _Teller:
    """Tells the parent now and then how many images of a shard are done."""

    def __init__(self, to_parent: Connection) -> None:
        self._to_parent = to_parent
        self._told = time.monotonic()

    def __call__(self, images: int) -> None:
        now = time.monotonic()
        if now - self._told >= _TOLD_EVERY_S:
            self._told = now
            self._to_parent.send(("progress", images))


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its workers, and the next one must not meet them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
