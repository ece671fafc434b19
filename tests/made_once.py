"""What takes seconds to make and is only read: made once for all processes that run tests."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a session of tests see, and that goes with the session.

    Temporary folders of a process of pytest-xdist go when that process ends, so this one lies beside them.
    """
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A file or folder that one process makes, and others wait for; whoever changes it takes a copy.

    Args:
        folder: what to return. It appears when it is complete.
        make: makes it at the path it is given, beside `folder`: what names its own place has to name `folder`.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with one_process(folder.with_name(f"{folder.name}.lock")):
            if not folder.exists():
                making = folder.with_name(f"making-{folder.name}")
                shutil.rmtree(making, ignore_errors=True)  # of a call that failed
                make(making)
                making.rename(folder)
    return folder


@contextmanager
def one_process(lock: Path) -> Iterator[None]:
    """Hold a lock, however long others hold it before."""
    import fcntl

    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
