"""SHA-256 of files, computed once for each file that stays as it is."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

Identity = tuple[int, ...]
"""What tells whether the same unchanged file lies there: device, number, size, times of modification and of change."""

_SETTLED_NS = 2_000_000_000
"""A file that was changed more recently may change again without another time: clocks of file systems tick."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    before = identity(path)
    if time.time_ns() - max(before[-2:]) < _SETTLED_NS:
        return _computed(path)
    return _remembered(path.absolute(), before)


def joint_digest(digests: Sequence[str | None]) -> str | None:
    """One SHA-256 for several files by theirs, in order; of one file its own. None where one is unknown."""
    known = [digest for digest in digests if digest is not None]
    if len(known) < len(digests) or not known:
        return None
    return known[0] if len(known) == 1 else hashlib.sha256("".join(known).encode()).hexdigest()


def identity(path: Path) -> Identity:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def identities(files: Iterable[Path]) -> tuple[Identity, ...]:
    """Of several files; nothing where one cannot be looked at."""
    try:
        return tuple(identity(file) for file in files)
    except OSError:
        return ()


@lru_cache(maxsize=256)
def _remembered(path: Path, _as_it_is: Identity) -> str:
    return _computed(path)


def _computed(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
