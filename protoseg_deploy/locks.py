"""One writer at a time: a lock that names who holds it, and that a dead process does not keep."""

import errno
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
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


_HEARTBEAT_S = 10.0
"""How often an owner writes a heartbeat."""
_DEAD_AFTER_S = 60.0
"""Without a heartbeat for so long, an owner on another host is gone."""


@contextmanager
def sole_writer(
    lock: Path, thing: str, *, take_over: bool = False, take_over_option: str = "", wait_s: float = 0.0
) -> Iterator[None]:
    """Hold a lock for the time of the block.

    The lock is the operating system's, on the file `lock`, so it ends with the process, however that ends; processes
    that it forks, such as data-loader workers, do not inherit it. The file names the owner. Not every file system
    shares locks between hosts: an owner on another host is taken to run until it sent no heartbeat for a minute.

    Args:
        lock: the lock file, removed at the end. Its folder exists.
        thing: what is locked, to be named in errors, such as ``runs/a``.
        take_over: do not wait for the end of that minute.
        take_over_option: what the user can add to say so.
        wait_s: how long to wait for another process to let go of the lock.

    Raises:
        LockedError: another process holds the lock; it is named.
        WriteError: the lock file cannot be written.
    """
    key = str(lock.absolute())
    if key in _HELD:
        raise LockedError(f"{thing} is being written by this process already")
    try:
        descriptor = _acquire(lock, thing, time.monotonic() + wait_s)
    except OSError as error:
        raise WriteError(lock, error) from None
    released = threading.Event()
    try:
        if not take_over:
            _require_dead(descriptor, thing, take_over_option)
        _write_owner(lock, descriptor)
        _HELD.add(key)
        threading.Thread(target=_stay_alive, args=(descriptor, released), daemon=True).start()
        try:
            yield
        finally:
            _HELD.discard(key)
            with suppress(OSError):  # Windows removes no open file: an unlocked one does no harm
                lock.unlink()
    finally:
        with _DESCRIPTORS:  # never a heartbeat through a descriptor that is another file's by now
            released.set()
            os.close(descriptor)


def owner_of(lock: Path) -> Owner | None:
    """Who holds a lock right now; None where nobody does."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _try_lock(descriptor) else (_read_owner(descriptor) or Owner(host="?", pid=0))
    finally:
        os.close(descriptor)


_HELD: set[str] = set()
"""Locks of this process: the system's does not keep a process from itself."""
_DESCRIPTORS = threading.Lock()


def _acquire(lock: Path, thing: str, deadline: float) -> int:
    """Descriptor of the lock file, locked."""
    while True:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        descriptor = os.open(lock, flags, 0o644)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # a named pipe or a device holds no name of an owner
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            locked = _try_lock(descriptor)
            if locked and _is_still(lock, descriptor):
                return descriptor
            owner = _read_owner(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if locked:  # its owner removed it between our opening and our locking it
            continue
        if time.monotonic() < deadline:
            time.sleep(0.05)
            continue
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
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            return True  # a file system without locks: what the file says of its owner has to do
        raise
    return True


def _is_still(lock: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    except FileNotFoundError:
        return False


def _require_dead(descriptor: int, thing: str, option: str) -> None:
    """Of an owner on this host the lock itself says that it is gone."""
    owner = _read_owner(descriptor)
    if owner is None or owner.host == socket.gethostname() or (owner.job and owner.job == _job()):
        return
    silent_s = max(0.0, time.time() - os.fstat(descriptor).st_mtime)
    if silent_s < _DEAD_AFTER_S:
        now = f", or add {option} if that process has ended" if option else ""
        raise LockedError(
            f"{thing} is being written by process {owner.pid} on another host, {owner.host}: its last heartbeat was "
            f"{silent_s:.0f} s ago",
            f"Try again when it has given none for {_DEAD_AFTER_S:.0f} s{now}.",
        )


def _stay_alive(descriptor: int, released: threading.Event) -> None:
    while not released.wait(_HEARTBEAT_S):
        with _DESCRIPTORS, suppress(OSError):
            if not released.is_set() and os.utime in os.supports_fd:
                os.utime(descriptor)


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
