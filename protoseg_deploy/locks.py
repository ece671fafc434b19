"""One writer at a time: a lock that names who holds it, and that a dead process does not keep."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from protoseg_deploy.errors import UsageError, WriteError


class LockedError(UsageError):
    """Another process writes there, or may do so."""


class Owner(BaseModel):
    """Who holds a lock, as the lock file says."""

    host: str
    pid: int
    job: str = ""
    """Id of the ``torchrun`` job: its restarts, on whatever host, own what it owned."""


@contextmanager
def sole_writer(
    lock: Path, thing: str, *, take_over: bool = False, take_over_option: str = ""
) -> Iterator[Callable[[], None]]:
    """Hold a lock for the time of the block.

    The lock is the operating system's, on the file `lock`, so it ends with the process, however that ends; processes
    that it forks, such as data-loader workers, do not inherit it. The file names the owner. Where a file system does
    not share locks between hosts nobody can say whether an owner on another host still runs: it is taken to run.

    Args:
        lock: the lock file, removed at the end. Its folder exists.
        thing: what is locked, to be named in errors, such as ``runs/a``.
        take_over: take a lock over that a process on another host has left behind.
        take_over_option: what the user can add to do so.

    Yields:
        A function that leaves a sign of life, for processes on other hosts.

    Raises:
        LockedError: another process holds the lock; it is named.
        WriteError: the lock file cannot be written.
    """
    key = str(lock.absolute())
    if key in _HELD:
        raise LockedError(f"{thing} is being written by this process already")
    try:
        descriptor = _acquire(lock, thing)
    except OSError as error:
        raise WriteError(lock, error) from None
    try:
        if not take_over:
            _require_no_other_host(descriptor, thing, take_over_option or f"remove {lock}")
        _write_owner(lock, descriptor)
        _HELD.add(key)
        try:
            yield lambda: os.utime(descriptor) if os.utime in os.supports_fd else None
        finally:
            _HELD.discard(key)
            with suppress(OSError):  # Windows removes no open file: an unlocked one does no harm
                lock.unlink()
    finally:
        os.close(descriptor)


_HELD: set[str] = set()
"""Locks of this process: the system's does not keep a process from itself."""


def _acquire(lock: Path, thing: str) -> int:
    """Descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if _try_lock(descriptor):
                if _is_still(lock, descriptor):
                    return descriptor
                os.close(descriptor)  # its owner removed it between our opening and our locking it
                continue
            owner = _read_owner(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        who = "another process" if owner is None else f"process {owner.pid} on {owner.host}"
        raise LockedError(f"{thing} is being written by {who}", "Wait until it has ended, or stop it.")


def _try_lock(descriptor: int) -> bool:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # what is locked cannot be read, so not the owner's name
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _is_still(lock: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _require_no_other_host(descriptor: int, thing: str, how: str) -> None:
    owner = _read_owner(descriptor)
    if owner is None or owner.host == socket.gethostname() or (owner.job and owner.job == _job()):
        return
    age = max(0.0, time.time() - os.fstat(descriptor).st_mtime)
    raise LockedError(
        f"{thing} was last written by process {owner.pid} on another host, {owner.host}, which gave its last sign of "
        f"life {_duration(age)} ago",
        f"If that process has ended, {how} to go on here.",
    )


def _job() -> str:
    """Id of the ``torchrun`` job this process belongs to; empty where it has no name of its own."""
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if job == "none" else job


def _read_owner(descriptor: int) -> Owner | None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        return Owner.model_validate_json(os.read(descriptor, 4096))
    except (ValidationError, OSError):  # just being written
        return None


def _write_owner(lock: Path, descriptor: int) -> None:
    owner = Owner(host=socket.gethostname(), pid=os.getpid(), job=_job())
    try:
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, owner.model_dump_json().encode() + b"\n")
    except OSError as error:
        raise WriteError(lock, error) from None


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"
