"""Limits that a container or a service manager sets: control groups of Linux, version 1 and version 2.

A process is limited by its own group and by all groups above it; the smallest limit counts. Inside a container, the
groups that can be seen begin at the mount point, whatever the path in ``/proc/self/cgroup`` says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from protoseg_deploy.diagnostics.machine import Machine

_NONE_BELOW = 2**60
"""Version 1 writes a huge number where there is no limit of the memory."""


@dataclass(frozen=True)
class CgroupLimits:
    """None: no limit."""

    cpus: float | None = None
    """Cores' worth of time that all processes of the group get together."""
    memory_bytes: int | None = None
    memory_free_bytes: int | None = None
    """What is left of `memory_bytes`; the cache of files, which the system gives back, counts as free."""


@dataclass(frozen=True)
class _Mount:
    controllers: frozenset[str]
    """Of version 1; empty: version 2."""
    root: str
    """The group that is seen at the mount point."""
    point: str


def read_limits(machine: Machine) -> CgroupLimits:
    """The limits of this process."""
    mounts = _mounts(machine.read("proc/self/mountinfo"))
    cpus: list[float] = []
    memory: list[tuple[int, int]] = []
    for line in machine.read("proc/self/cgroup").splitlines():
        names, _, path = line.partition(":")[2].partition(":")
        for mount in mounts:
            controllers = frozenset(names.split(",")) if names else frozenset()
            if controllers != mount.controllers and not (controllers & mount.controllers):
                continue
            for folder in _folders(machine, mount, path):
                cpus += _cpu_limit(machine, folder, version_2=not controllers)
                memory += _memory_limit(machine, folder, version_2=not controllers)
    tightest = min(memory, default=None)
    free = min((limit - used for limit, used in memory), default=None)
    return CgroupLimits(
        min(cpus, default=None),
        tightest[0] if tightest else None,
        None if free is None else max(0, free),
    )


def _mounts(mountinfo: str) -> list[_Mount]:
    found = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if not separator or len(fields) < 5 or len(kinds) < 3 or kinds[0] not in ("cgroup", "cgroup2"):
            continue
        options = frozenset(kinds[2].split(",")) if kinds[0] == "cgroup" else frozenset()
        found.append(_Mount(options - {"rw", "ro"}, fields[3], fields[4]))
    return found


def _folders(machine: Machine, mount: _Mount, path: str) -> Iterator[str]:
    """The folder of a group and those above it, as far as they can be seen."""
    group = PurePosixPath(path)
    inside = group.relative_to(mount.root) if group.is_relative_to(mount.root) else PurePosixPath()
    folder = PurePosixPath(mount.point) / inside
    if not machine.exists(str(folder)):
        folder = PurePosixPath(mount.point)
    yield str(folder)
    while str(folder) != mount.point and folder != folder.parent:
        folder = folder.parent
        yield str(folder)


def _cpu_limit(machine: Machine, folder: str, *, version_2: bool) -> list[float]:
    if version_2:
        words = machine.read(f"{folder}/cpu.max").split()
        if len(words) != 2 or not all(word.isdecimal() for word in words):  # "max 100000": no limit
            return []
        quota, period = map(int, words)
    else:
        quota = machine.number(f"{folder}/cpu.cfs_quota_us") or -1
        period = machine.number(f"{folder}/cpu.cfs_period_us") or 0
    return [quota / period] if quota > 0 and period > 0 else []


def _memory_limit(machine: Machine, folder: str, *, version_2: bool) -> list[tuple[int, int]]:
    """Limit and use, both in bytes."""
    if version_2:
        limits = [machine.number(f"{folder}/{name}") for name in ("memory.max", "memory.high")]
        used, cache = machine.number(f"{folder}/memory.current"), "inactive_file"
    else:
        limits = [machine.number(f"{folder}/memory.limit_in_bytes")]
        used, cache = machine.number(f"{folder}/memory.usage_in_bytes"), "total_inactive_file"
    set_ones = [limit for limit in limits if limit is not None and limit < _NONE_BELOW]
    if not set_ones:
        return []
    words = machine.read(f"{folder}/memory.stat").split()
    statistics = dict(zip(words[::2], words[1::2], strict=False))
    return [(min(set_ones), max(0, (used or 0) - int(statistics.get(cache, "0"))))]
