"""Batches from data-loader workers that are monitored: one that is late or has died ends training with its reason."""

import errno
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.shared_memory import MORE_ROOM, SHARED_MEMORY, WorkerPlan
from protoseg_deploy.errors import ProtosegError, UsageError

_POLL_S = 1.0
"""Waiting is counted in pieces of this length, of which a suspended process loses one and not all."""
_GRACE_S = 2.0
"""Data-loader workers that do not end by themselves for so long are killed; they hold nothing that could be lost."""
_PATH_BYTES = 1024


class LoaderError(ProtosegError):
    """No batch arrived, for a reason in the data-loader workers; the step before it is complete."""


class TrainingLoader:
    """The batches from a step on, in order.

    Close its iterator: that ends the data-loader workers, whatever they are doing.

    Args:
        batches: what to load.
        first_step: step of the first batch.
        plan: data-loader workers; with none, batches are made in this process.
        pin_memory: for copies to a GPU.
        timeout_s: the longest to wait for a batch of a data-loader worker.
    """

    def __init__(
        self, batches: TrainingBatches, first_step: int, plan: WorkerPlan, *, pin_memory: bool, timeout_s: float
    ) -> None:
        self.batches, self.first_step, self.plan = batches, first_step, plan
        self.pin_memory, self.timeout_s = pin_memory, timeout_s

    def __iter__(self) -> Generator[Batch]:
        """Raises the error of a batch that could not be made.

        Raises:
            DataError: see `TrainingBatches.batch`.
            LoaderError: a data-loader worker was killed, is late, or could not pass a batch on.
        """
        return self._from_workers() if self.plan.workers else self._made_here()

    def _made_here(self) -> Generator[Batch]:
        for step in range(self.first_step, len(self.batches)):
            batch = self.batches.batch(step)
            yield batch.pin_memory() if self.pin_memory else batch

    def _from_workers(self) -> Generator[Batch]:
        reads = _Reads(self.plan.workers)
        others = set(multiprocessing.active_children())
        before = _signal_of_children()
        try:
            arriving: Iterator[Batch | ProtosegError] | None = iter(self._data_loader(reads))
        except OSError as error:
            raise UsageError(
                f"train.workers: {self.plan.workers} data-loader workers cannot be started: {error.strerror}",
                "Set a smaller number, or 0.",
            ) from None
        workers = [process for process in multiprocessing.active_children() if process not in others]
        # torch's handler raises for a dead worker in the middle of whatever this process does, such as writing a
        # checkpoint. Here the dead are found when their batch is waited for.
        _set_signal_of_children(signal.SIG_DFL)
        try:
            while (loaded := self._next(arriving, workers, reads)) is not None:
                if isinstance(loaded, ProtosegError):
                    raise loaded
                yield loaded
        finally:
            _set_signal_of_children(before)
            killing = threading.Timer(_GRACE_S, _kill, [workers])
            killing.start()
            arriving = None  # the last reference: ending it waits for the workers
            killing.cancel()
            _kill(workers)

    def _data_loader(self, reads: "_Reads") -> DataLoader[Batch | ProtosegError]:
        return DataLoader(
            _Shared(self.batches, reads),
            batch_size=None,
            sampler=range(self.first_step, len(self.batches)),
            num_workers=self.plan.workers,
            pin_memory=self.pin_memory,
            prefetch_factor=self.plan.prefetch,
            timeout=min(_POLL_S, self.timeout_s),
            generator=torch.Generator(),  # iterating would draw from the global one, which a resumed run has restored
        )

    def _next(
        self, arriving: "Iterator[Batch | ProtosegError] | None", workers: Sequence[BaseProcess], reads: "_Reads"
    ) -> Batch | ProtosegError | None:
        """The next batch, what kept it from coming, or None after the last one.

        Errors are returned: raised here they would keep alive what has to be ended.
        """
        assert arriving is not None
        waited = 0.0
        while True:
            try:
                return next(arriving, None)
            # What torch raises for a worker that is late, dead, or has died while it handed a batch over.
            except (RuntimeError, OSError, EOFError) as error:
                late = str(error).startswith("DataLoader timed out")
                if not late:
                    workers[0].join(0.5)  # the system takes a moment until it says that a process has died
                dead = next((worker for worker in workers if worker.exitcode is not None), None)
                if dead is not None:
                    return _death(dead, self.batches)
                if "Too many open files" in str(error) or getattr(error, "errno", None) == errno.EMFILE:
                    return _no_descriptors(len(workers))
                if not late:
                    raise
            waited += min(_POLL_S, self.timeout_s)
            if waited >= self.timeout_s:
                return _lateness(self.timeout_s, reads)


def training_loader(
    batches: TrainingBatches, first_step: int, workers: int, *, pin_memory: bool, timeout_s: float = 300.0
) -> TrainingLoader:
    """A loader with so many processes, whether or not they fit; see `plan_workers`."""
    return TrainingLoader(batches, first_step, WorkerPlan(workers), pin_memory=pin_memory, timeout_s=timeout_s)


class _Reads:
    """Which file each data-loader worker is reading, for the process that waits for them."""

    def __init__(self, workers: int) -> None:
        self._slots = multiprocessing.RawArray("c", workers * _PATH_BYTES)

    def note(self, worker: int, path: Path | None) -> None:
        name = b"" if path is None else os.fsencode(path)[-_PATH_BYTES:]
        self._slots[worker * _PATH_BYTES : (worker + 1) * _PATH_BYTES] = name.ljust(_PATH_BYTES, b"\0")

    def now(self) -> list[str]:
        """Files being read."""
        slots = bytes(self._slots)
        names = [slots[at : at + _PATH_BYTES].rstrip(b"\0") for at in range(0, len(slots), _PATH_BYTES)]
        return list(dict.fromkeys(os.fsdecode(name) for name in names if name))


class _Shared(Dataset[Batch | ProtosegError]):
    """What a data-loader worker makes of a step: a batch in shared memory, or the error that kept it from being made.

    Left to torch, a batch is moved there when it has been handed over already, and what goes wrong then is lost.
    """

    def __init__(self, batches: TrainingBatches, reads: _Reads) -> None:
        self.batches, self.reads = batches, reads

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, step: int) -> Batch | ProtosegError:
        worker = get_worker_info()
        assert worker is not None
        self.batches.before_reading = partial(self.reads.note, worker.id)
        loaded = self.batches[step]
        self.reads.note(worker.id, None)
        if isinstance(loaded, ProtosegError):
            return loaded
        try:
            loaded.share_memory()
        except RuntimeError as error:  # of torch's allocator, in words
            return LoaderError(f"{SHARED_MEMORY} has no room for a batch: {_reason(error)}", MORE_ROOM)
        return loaded


def _reason(error: RuntimeError) -> str:
    return str(error).splitlines()[0].rpartition(">: ")[2]


def _death(worker: BaseProcess, batches: TrainingBatches) -> LoaderError:
    assert worker.exitcode is not None
    number = -worker.exitcode
    how = f"ended with exit code {worker.exitcode}" if number < 0 else f"was killed by {_signal_name(number)}"
    if number == getattr(signal, "SIGKILL", 9):
        return LoaderError(
            f"a data-loader worker ({worker.pid}) {how}, as the system does when memory runs out",
            f"Set train.workers lower; each keeps up to data.cache_mib={batches.recipe.data.cache_mib} of images.",
        )
    if number == getattr(signal, "SIGBUS", 7):
        return LoaderError(f"a data-loader worker ({worker.pid}) {how}: {SHARED_MEMORY} is full", MORE_ROOM)
    return LoaderError(
        f"a data-loader worker ({worker.pid}) {how}",
        "With train.workers=0 the training process loads the batches itself and shows the error.",
    )


def _signal_name(number: int) -> str:
    with suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _lateness(timeout_s: float, reads: _Reads) -> LoaderError:
    files = reads.now()
    what = f"data-loader workers are reading {', '.join(files[:4]) or 'no file'}"
    return LoaderError(
        f"no batch has come for {timeout_s:g} s (train.timeout_s); {what}",
        "Possible causes: a slow or disconnected network drive, very large images, swapping. Set "
        f"train.timeout_s higher to wait longer. {MORE_ROOM}",
    )


def _no_descriptors(workers: int) -> LoaderError:
    return LoaderError(
        f"too many open files: each batch of the {workers} data-loader workers needs several",
        "Raise the limit (`ulimit -n 65536`), or set train.workers lower.",
    )


def _signal_of_children() -> object:
    return signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None


def _set_signal_of_children(handler: object) -> None:
    if handler is not None and hasattr(signal, "SIGCHLD"):
        with suppress(ValueError):  # not in the main thread: there torch sets none either
            signal.signal(signal.SIGCHLD, handler)  # type: ignore[arg-type]


def _kill(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        if worker.is_alive():
            worker.kill()
    for worker in workers:
        worker.join(_GRACE_S)
        if worker.is_alive():
            # In a call to the system that nothing interrupts, such as a read of a drive that is gone. It ends with
            # that call, but Python would wait for it when it exits.
            multiprocessing.process._children.discard(worker)  # type: ignore[attr-defined]
