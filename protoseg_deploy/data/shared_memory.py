"""How many data-loader workers the shared memory holds.

Batches come from data-loader workers through ``/dev/shm`` on Linux. Where it is full, torch cannot pass a batch on,
and a training that waits for it would wait forever. Docker gives a container 64 MB of it.
"""

import os
import sys
from dataclasses import dataclass

from protoseg_deploy.errors import UsageError

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a file system of the kernel, not a folder for scratch files
MORE_ROOM = (
    "In a container, start it with a larger --shm-size (Docker gives 64 MB by itself), or with --ipc=host. "
    "train.workers=0 needs none: batches are then made in the training process."
)

_PREFETCH = 4
"""Batches that each data-loader worker makes in advance, where there is room for them."""
_BESIDE = 2
"""Batches that live beside those made in advance: the one in use, and the next while that is still held."""
_USABLE_SHARE = 0.9
"""Others share memory, too: libraries of this process and neighbours on the machine."""


@dataclass(frozen=True)
class WorkerPlan:
    """Data-loader workers of one training process, and how many batches each makes in advance."""

    workers: int
    prefetch: int = _PREFETCH
    note: str = ""
    """What differs from what was wanted, and why; empty: nothing."""


def plan_workers(wanted: int, batch_bytes: int, *, fixed: bool, training_processes: int = 1) -> WorkerPlan:
    """As many data-loader workers as wanted, as far as shared memory has room for their batches.

    First they make fewer batches in advance; then, unless their number is `fixed`, there are fewer of them.

    Args:
        wanted: data-loader workers of each training process.
        batch_bytes: of a batch in shared memory.
        fixed: the recipe gives the number, so that another one is not what was asked for.
        training_processes: those on this machine, each with data-loader workers of its own.

    Raises:
        UsageError: a fixed number does not fit.
    """
    free = free_shared_bytes()
    if wanted == 0 or free is None:
        return WorkerPlan(wanted)

    def needed(workers: int, prefetch: int) -> int:
        return batch_bytes * (workers * prefetch + _BESIDE) * training_processes

    room = f"{SHARED_MEMORY} has {_mib(free)} free, and a batch takes {_mib(batch_bytes)}"
    for workers in [wanted] if fixed else range(wanted, 0, -1):
        for prefetch in range(_PREFETCH, 0, -1):
            if needed(workers, prefetch) <= free * _USABLE_SHARE:
                return WorkerPlan(workers, prefetch, _note(room, (wanted, _PREFETCH), (workers, prefetch)))
    if not fixed:
        return WorkerPlan(0, note=f"{room}: batches are made in the training process. {MORE_ROOM}")
    whose = f"each of {training_processes} training processes: " if training_processes > 1 else ""
    raise UsageError(
        f"train.workers: {whose}{wanted} data-loader workers need at least {_mib(needed(wanted, 1))}; {room}",
        MORE_ROOM,
    )


def free_shared_bytes() -> int | None:
    """What processes can still share; None where nothing but the memory of the machine limits it."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        shared = os.statvfs(SHARED_MEMORY)
    except OSError:  # without it nothing can be shared
        return 0
    return shared.f_bavail * shared.f_frsize if shared.f_blocks else None


def _note(room: str, wanted: tuple[int, int], planned: tuple[int, int]) -> str:
    changes = []
    if planned[0] != wanted[0]:
        changes.append(f"{planned[0]} data-loader workers instead of {wanted[0]}")
    if planned[1] != wanted[1]:
        changes.append(f"each prefetches {planned[1]} instead of {wanted[1]}")
    return f"{room}: {', '.join(changes)}. A larger --shm-size gives a container more." if changes else ""


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size < 100 * 2**20 else f"{size / 2**20:.0f} MiB"
