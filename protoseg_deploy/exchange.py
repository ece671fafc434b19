"""A folder appears as a whole, or takes another's place as a whole; an exchange that was killed is finished or undone.

Beside a folder ``b`` there can be, for a time: ``.b.lock`` while somebody makes a new one, ``.b.ID.tmp`` where it is
made, and, during the exchange, ``.b.ID.new``, which is complete, and ``.b.ID.old``, which it replaces.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from protoseg_deploy.errors import ProtosegError, WriteError
from protoseg_deploy.files import resolved, sync_folder
from protoseg_deploy.locks import LockedError, sole_writer

LOCK_FILE = ".lock"
"""Inside a folder: held by who changes files of it, and by who exchanges it."""
_PATIENCE_S = 5.0
"""An exchange that is under way takes three renames."""


class Replacement:
    """A new folder in the making; what is in `folder` at the end of `replacing` is gone unless it was put in place.

    Args:
        target: the folder that is to be replaced, or not there yet.
        check: see `replacing`.
    """

    def __init__(self, target: Path, check: Callable[[Path], object] | None = None) -> None:
        self.target = target
        self._check = check
        self._id = secrets.token_hex(6)
        self.folder = self._beside(target, "tmp")

    def put_in_place(self, target: Path | None = None) -> None:
        """Exchange, in this order: the new folder is complete; the old one steps aside; the new one takes its name.

        Args:
            target: another place beside it; the target itself when absent.

        Raises:
            ProtosegError: what is there by now may not be replaced; it is as it was.
            WriteError: it cannot be renamed; what was there is there again.
        """
        if target is not None and target != self.target:
            with sole_writer(_lock(target), str(target)):
                _finish(target)
                self._put(target)
        else:
            self._put(self.target)

    def _put(self, target: Path) -> None:
        new, old = self._beside(target, "new"), self._beside(target, "old")
        try:
            _sync_tree(self.folder)
            self.folder.rename(new)
            if target.exists():
                self._set_aside(target, old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
            sync_folder(target.parent)
        except OSError as error:
            raise WriteError(target, error) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)

    def _set_aside(self, target: Path, old: Path) -> None:
        if self._check is not None:  # before a lock file is put there
            self._check(target)
        with sole_writer(target / LOCK_FILE, str(target), wait_s=60):  # whoever writes into it now ends first
            if self._check is not None:
                self._check(target)
            target.rename(old)

    def _beside(self, target: Path, kind: str) -> Path:
        return target.with_name(f".{target.name}.{self._id}.{kind}")


@contextmanager
def replacing(target: Path, check: Callable[[Path], object] | None = None) -> Iterator[Replacement]:
    """A place to make a folder in; only one process at a time makes a target's.

    What a killed process has left is finished, undone or removed first. A target that is a link stays one: what it
    leads to is replaced.

    Args:
        target: the folder, there or not.
        check: refuses a folder that may not be replaced, by an error. Called right before the exchange: between the
            start and the end of an export somebody may have put files there.

    Raises:
        LockedError: another process is making it.
        WriteError: nothing can be written beside it.
    """
    target = resolved(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(target, error) from None
    with sole_writer(_lock(target), str(target)):
        _finish(target)
        replacement = Replacement(target, check)
        try:
            replacement.folder.mkdir()
        except OSError as error:
            raise WriteError(replacement.folder, error) from None
        try:
            yield replacement
        finally:
            shutil.rmtree(replacement.folder, ignore_errors=True)


def settle(target: Path) -> None:
    """Before a folder is read: finish or undo an exchange that was killed half-way. Costs nothing where it is there.

    Raises:
        ProtosegError: an exchange that was killed cannot be finished.
    """
    if target.exists() or not target.name:
        return
    target = resolved(target)
    deadline = time.monotonic() + _PATIENCE_S
    while not target.exists() and _left_beside(target, ("new", "old")):
        try:
            with sole_writer(_lock(target), str(target)):
                _finish(target)
        except LockedError:  # it is just being exchanged, or a writer is cleaning up
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _finish(target: Path) -> None:
    """With the lock held, whatever lies beside the target was left by a process that is gone."""
    try:
        if not target.exists():
            ready = [*_left_beside(target, ("new",)), *_left_beside(target, ("old",))]
            if ready:
                ready[0].rename(target)
    except OSError as error:
        raise ProtosegError(
            f"{target}: an export that was killed left {ready[0].name} beside it, which cannot be renamed: "
            f"{error.strerror}",
            f"Rename {ready[0]} to {target.name}.",
        ) from None
    for left in _left_beside(target, ("tmp", "new", "old")):
        shutil.rmtree(left, ignore_errors=True)


def _left_beside(target: Path, kinds: tuple[str, ...]) -> list[Path]:
    """Folders of exchanges of the target, the latest first."""
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}\.(?:{'|'.join(kinds)})")
    with suppress(OSError), os.scandir(target.parent) as entries:
        found = [Path(entry.path) for entry in entries if pattern.fullmatch(entry.name) and not entry.is_symlink()]
        return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    return []


def _lock(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            with Path(place, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(place))
