"""The most memory that a piece of work, or a whole process, needs at a time."""

import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_memory_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors alive at a time that `work` has made, on top of what there was before.

    On CUDA the allocator keeps count. On the CPU every operation of the dispatcher is watched, backward passes
    included: what an operation frees again before it returns is not seen there.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = int(torch.cuda.memory_allocated(device))
        work()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    live = _LiveBytes()
    with live:
        work()
    return live.peak


def process_peak_bytes(device: torch.device) -> int:
    """The most memory this process has held at a time, since it was started.

    On CUDA what the allocator has handed out; on the CPU `resident_peak_bytes`.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident_peak_bytes()


def resident_bytes() -> int:
    """Memory of this process that is resident now."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def resident_peak_bytes() -> int:
    """The most memory of this process, interpreter and libraries included, that was resident at a time."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):  # ru_maxrss on Linux is that of the program that started this one, if larger
            return int(line.split()[1]) * 2**10
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 2**10)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations return until nobody holds them any more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        known = {_address(leaf) for leaf in tree_leaves((arguments, keywords)) if isinstance(leaf, torch.Tensor)}
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and _address(leaf) not in known | self._alive:
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._alive.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, address, size)

    def _remove(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self.now -= size


def _address(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
