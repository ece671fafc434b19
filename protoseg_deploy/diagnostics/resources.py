"""Cores, memory, shared memory and disk space that this process really gets."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.diagnostics.cgroups import CgroupLimits
from protoseg_deploy.diagnostics.findings import Finding, State, gib
from protoseg_deploy.diagnostics.machine import Machine

_LITTLE_MEMORY = 2 * 2**30
_LITTLE_DISK = 2 * 2**30
"""A run of a small network with its checkpoints and a bundle fits; pretrained weights of a large backbone do not."""
_FEW_FILES = 10_000
_PREFETCHED, _BESIDE, _USABLE_SHARE = 4, 2, 0.9
"""Batches of each data-loader worker, batches in use, and the share of shared memory that is counted on."""


@dataclass(frozen=True)
class Space:
    """A file system."""

    free_bytes: int
    total_bytes: int
    free_files: int | None
    """None: it has no such limit."""
    writable: bool


_SHARED = "/dev/shm"  # noqa: S108 - a file system of the kernel, not a folder for scratch files

SpaceOf = Callable[[Path], Space | None]
"""The file system that a path is or would be on; None where nobody can tell."""


def space_of(path: Path) -> Space | None:
    """The file system that a path is on; of one that is not there, that of the nearest folder above it."""
    there = next((place for place in (path, *path.parents) if place.exists()), None)
    if there is None or not hasattr(os, "statvfs"):
        return _portable(there)
    try:
        system = os.statvfs(there)
    except OSError:
        return None
    files = system.f_favail if system.f_files else None
    size = system.f_frsize
    return Space(system.f_bavail * size, system.f_blocks * size, files, os.access(there, os.W_OK | os.X_OK))


def _portable(there: Path | None) -> Space | None:
    import shutil

    if there is None:
        return None
    usage = shutil.disk_usage(there)
    return Space(usage.free, usage.total, None, os.access(there, os.W_OK))


def core_finding(machine: Machine, limits: CgroupLimits) -> Finding:
    """Cores that may be used: affinity and quota. Libraries start a thread per core whatever the quota is."""
    usable, quota = machine.usable_cores, limits.cpus
    fact = f"{usable} of {machine.logical_cores} logical cores may be used"
    details = {"usable_cores": usable, "logical_cores": machine.logical_cores, "quota_cores": quota}
    if quota is None or quota >= usable:
        return Finding("cores", "ok", fact, details=details)
    threads = max(1, math.floor(quota))
    fact += f", but only {quota:g} cores' worth of time (a quota of the container or service)"
    asked = machine.environment.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and 0 < int(asked) <= math.ceil(quota):
        return Finding("cores", "ok", f"{fact}; OMP_NUM_THREADS={asked} fits", details=details)
    fact += f": {usable} threads would wait for each other"
    return Finding("cores", "problem", fact, f"export OMP_NUM_THREADS={threads}", details=details)


def memory_finding(machine: Machine, limits: CgroupLimits) -> Finding:
    """Main memory, and what a control group leaves of it."""
    values = dict(line.split(":", 1) for line in machine.read("proc/meminfo").splitlines() if ":" in line)
    total, free = (_kib(values.get(key, "")) for key in ("MemTotal", "MemAvailable"))
    details = {"total_bytes": total, "available_bytes": free, "limit_bytes": limits.memory_bytes}
    if total is None or free is None:
        return Finding("memory", "ok", f"{machine.system} does not tell", details=details)
    fact = f"{gib(free)} of {gib(total)} free"
    if limits.memory_bytes is not None and limits.memory_bytes < total:
        free = min(free, limits.memory_free_bytes or 0)
        fact += f"; the container or service may use {gib(limits.memory_bytes)}, {gib(free)} of it are left"
    if free >= _LITTLE_MEMORY:
        return Finding("memory", "ok", fact, details=details)
    fix = "Allow more memory (docker run --memory=8g …), end other programs, or lower data.cache_mib and train.crop."
    return Finding("memory", "problem", fact, fix, details=details)


def _kib(text: str) -> int | None:
    number = text.split()[0] if text.split() else ""
    return int(number) * 1024 if number.isdecimal() else None


def shared_memory_finding(machine: Machine, space: Space | None, batch_bytes: int, workers: int) -> Finding:
    """Room for the batches of data-loader workers in ``/dev/shm``.

    Args:
        machine: other systems than Linux share memory without such a folder.
        space: of ``/dev/shm``; None: there is none.
        batch_bytes: of one batch.
        workers: that training would start.
    """
    if machine.system != "Linux":
        return Finding(_SHARED, "ok", f"{machine.system} needs none")
    needed = batch_bytes * (workers * _PREFETCHED + _BESIDE)
    free = space.free_bytes if space else 0
    details = {"free_bytes": free, "needed_bytes": needed, "batch_bytes": batch_bytes, "workers": workers}
    noun = "worker" if workers == 1 else "workers"
    wanted = f"{workers} data-loader {noun} with batches of the default size take {gib(needed)}"
    if space is not None and not space.total_bytes:
        return Finding(_SHARED, "ok", f"not limited; {wanted}", details=details)
    if free * _USABLE_SHARE >= needed:
        return Finding(_SHARED, "ok", f"{gib(free)} free; {wanted}", details=details)
    size = f"{max(1, math.ceil(2 * needed / 2**30))}g"
    fix = f"docker run --shm-size={size} …, or --ipc=host. Until then training starts fewer workers, down to none."
    return Finding(_SHARED, "problem", f"{gib(free)} free, too little: {wanted}", fix, details=details)


def disk_findings(folders: Mapping[str, Path], space_at: SpaceOf = space_of) -> list[Finding]:
    """Space, number of files and the right to write, of folders by what they are for."""
    return [_disk(name, path, space_at(path)) for name, path in folders.items()]


def _disk(name: str, path: Path, space: Space | None) -> Finding:
    if space is None:
        return Finding(name, "problem", f"{path} cannot be looked at", "Choose another folder, or mount its disk.")
    details = {"free_bytes": space.free_bytes, "total_bytes": space.total_bytes, "writable": space.writable}
    fact, state, fix = f"{gib(space.free_bytes)} free ({path})", "ok", ""
    if not space.writable:
        fact, state, fix = f"{path} cannot be written", "problem", _CHANGE.get(name, "Work in a folder of your own.")
    elif space.free_bytes < _LITTLE_DISK:
        state, fix = "problem", f"Free some space. {_CHANGE.get(name, '')}".strip()
    elif space.free_files is not None and space.free_files < _FEW_FILES:
        fact += f", but room for {space.free_files:,} more files only"
        state, fix = "problem", "Remove small files, or use another file system."
    return Finding(name, _state(state), fact, fix, details=details)


def _state(text: str) -> State:
    return "problem" if text == "problem" else "ok"


_CHANGE = {
    "cache folder": "export PROTOSEG_CACHE=DIR for indexes of images, XDG_CACHE_HOME=DIR for engines as well",
    "weights folder": "export HF_HOME=DIR",
    "temporary folder": "export TMPDIR=DIR",
}
"""How a folder is moved."""


def default_batch_bytes(crop: int, labeled: int, unlabeled: int) -> int:
    """Of uint8 images and masks of a batch, with two strong views of every unlabelled image."""
    strong_views = 2
    return crop**2 * (4 * labeled + 4 * unlabeled + 3 * strong_views * unlabeled)
