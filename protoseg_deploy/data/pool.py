"""The unlabelled images of a recipe: an index of names in a file that every process maps, and none copies.

A million paths take 300 MB as Python objects, in time once more in every data-loader worker, and are searched again
at every start. Here they are one string of bytes and one array of offsets, some 40 MB in all, whose pages processes
share; and a large index is kept in a cache folder, so that the next start looks at the folders again, but not at the
files in them.

An index, little-endian, each part padded to a multiple of 8 bytes:

========  ==============================================================================================
preamble  16 bytes: what it is and in which version; three int64: bytes of the header, images, bytes of the names; the
          SHA-256 of all the rest and of these numbers
header    JSON: the folder where names start, the SHA-256 of the names, when they were looked for
offsets   int64 ``[images + 1]``: where each name begins
names     as the file system has them, each ended by a zero byte, in sorted order
sources   JSON: the folders (or list files) the names were read from, each with its time of modification in ns
========  ==============================================================================================

An index that does not have its digest, that is of another version or belongs to another user is rebuilt.
"""

import hashlib
import json
import os
import struct
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, overload

import numpy as np
from platformdirs import user_cache_path

from protoseg_deploy.data.paths import expanded, modified_ns, names_in
from protoseg_deploy.errors import DataError, ProtosegError, WriteError
from protoseg_deploy.files import is_scratch, open_regular, write_atomically

Search = Callable[[dict[str, int]], Iterable[tuple[str, Sequence[str]]]]
"""Makes a search. It adds the folders and files it looks into to its argument, each with its time of modification in
ns, and gives what comes before names (``"a/b/"``) with names, all in sorted order."""

LARGE_POOL = 10_000
"""Up to so many images an index is rebuilt each time and held in memory: that is quicker than looking it up."""

_MAGIC = b"protoseg pool 2\0"
_PREAMBLE = struct.Struct("<16s3q32s")
# Time stamps of file systems are coarse: a folder modified so shortly before it was read may have been modified again
# within the same tick.
_SETTLED_NS = 2 * 10**9
_LEFTOVER_NS = 3600 * 10**9
"""What is being written for so long is not being written any more."""


class ImagePool(Sequence[Path]):
    """Absolute paths of images, sorted; made one at a time when asked for.

    It pickles as the path of its file, so that spawned processes map the same pages.

    Args:
        index: the bytes of an index, or a map of its file.
        file: where these can be mapped again; None for a small index in memory.

    Raises:
        ValueError: it is no index, of another version, or damaged.
    """

    def __init__(self, index: bytes | mmap, file: Path | None = None) -> None:
        if len(index) < _PREAMBLE.size or index[: len(_MAGIC)] != _MAGIC:
            raise ValueError("not an index of images, or of another version")
        _, header_bytes, images, names_bytes, digest = _PREAMBLE.unpack_from(index)
        with memoryview(index) as view:
            if _digest([header_bytes, images, names_bytes], [view[_PREAMBLE.size :]]) != digest:
                raise ValueError("a damaged index of images")
        header_end = _PREAMBLE.size + _padded(header_bytes)
        names = header_end + 8 * (images + 1)
        header = json.loads(index[_PREAMBLE.size : _PREAMBLE.size + header_bytes])
        self.base = Path(header["base"])
        self.digest: str = header["sha256"]
        """SHA-256 of the names, relative to `base`: equal for the same images, wherever they lie."""
        self._found_ns: int = header["found_ns"]
        self._index, self._file = index, file
        self._offsets = np.frombuffer(index, "<i8", images + 1, header_end)
        self._names, self._sources = names, names + _padded(names_bytes)

    @classmethod
    def of(cls, names: Iterable[str], base: Path) -> "ImagePool":
        """A pool in memory of names relative to `base`; absolute ones stay what they are."""
        return cls(b"".join(_index(base, lambda _: [("", sorted(set(names)))])))

    @classmethod
    def map(cls, file: Path) -> "ImagePool":
        """The pool of an index file.

        Raises:
            OSError: there is no such file, or it is another user's.
            ValueError: it holds no index.
        """
        with open_regular(file) as opened:
            if hasattr(os, "getuid") and os.fstat(opened.fileno()).st_uid != os.getuid():
                raise PermissionError(1, "belongs to another user", str(file))
            return cls(mmap(opened.fileno(), 0, access=ACCESS_READ), file)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...

    def __getitem__(self, index: int | slice) -> Path | tuple[Path, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]
        begin, end = self._offsets[number : number + 2].tolist()
        return self.base / os.fsdecode(self._index[self._names + begin : self._names + end - 1])

    def __reduce__(self) -> tuple[Callable[..., "ImagePool"], tuple[Any, ...]]:
        if self._file is None:
            return ImagePool, (bytes(self._index),)
        return _map_again, (self._file, self.digest)

    def is_current(self) -> bool:
        """Whether all it was made from is as it was, for all that times of modification can tell."""
        sources: dict[str, int] = json.loads(self._index[self._sources :])
        settled = self._found_ns - _SETTLED_NS
        return all(modified <= settled and modified_ns(Path(place)) == modified for place, modified in sources.items())


def cached_pool(base: Path, options: Sequence[str], find: Search) -> ImagePool:
    """The pool of a search: of its last time where nothing has changed since, else searched now.

    Args:
        base: where names start.
        options: what else decides what is found; together with `base` the key in the cache.
        find: makes the search.

    Raises:
        ProtosegError: neither the cache nor the folder for temporary files can be written to.
    """
    # Users that share a cache folder have files of their own in it.
    user = str(os.getuid()) if hasattr(os, "getuid") else ""
    key = hashlib.sha256(json.dumps([user, str(base), *options]).encode()).hexdigest()[:32]
    file = cache_folder() / f"images-{key}.pool"
    try:
        kept = ImagePool.map(file)
        if kept.base == base and kept.is_current():
            return kept
    except (OSError, ValueError):
        pass  # not kept yet, by another version, or damaged
    parts = _index(base, find)
    images: int = _PREAMBLE.unpack(parts[0])[2]
    return _keep(parts, file) if images > LARGE_POOL else ImagePool(b"".join(parts))


def cache_folder() -> Path:
    """``$PROTOSEG_CACHE``, else ``protoseg`` in the user's cache folder."""
    if chosen := os.environ.get("PROTOSEG_CACHE"):
        return expanded(chosen).absolute()
    try:
        return user_cache_path("protoseg", appauthor=False).absolute()
    except RuntimeError:  # a user without a home: as good as a folder that cannot be written to
        return Path(os.devnull) / "protoseg"


def _index(base: Path, find: Search) -> list[bytes]:
    """The parts of an index, to be written one after the other."""
    found_ns = time.time_ns()
    sources: dict[str, int] = {}
    chunks = [os.fsencode(before + f"\0{before}".join(names) + "\0") for before, names in find(sources) if names]
    names = b"".join(chunks)
    ends = np.flatnonzero(np.frombuffer(names, np.uint8) == 0) + 1
    header = {"base": str(base), "sha256": hashlib.sha256(names).hexdigest(), "found_ns": found_ns}
    header_text = json.dumps(header).encode()
    numbers = [len(header_text), len(ends), len(names)]
    parts = [
        header_text.ljust(_padded(len(header_text))),
        np.concatenate([[0], ends]).astype("<i8").tobytes(),
        names.ljust(_padded(len(names)), b"\0"),
        json.dumps(sources).encode(),
    ]
    return [_PREAMBLE.pack(_MAGIC, *numbers, _digest(numbers, parts)), *parts]


def _digest(numbers: Sequence[int], parts: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.sha256(struct.pack("<3q", *numbers))
    for part in parts:
        digest.update(part)
    return digest.digest()


def _keep(parts: Sequence[bytes], file: Path) -> ImagePool:
    """Write an index to its place in the cache; where that cannot be, to a temporary file."""
    try:
        _remove_leftovers(file.parent)
        write_atomically(file, lambda opened: opened.writelines(parts))
        return ImagePool.map(file)
    except (WriteError, OSError):
        pass  # all that is lost is time at the next start
    try:
        temporary, descriptor = _write_temporary(parts, Path(tempfile.gettempdir()))
    except OSError as error:
        raise ProtosegError(
            f"the index of the unlabelled images cannot be written: {error.strerror}",
            "Set PROTOSEG_CACHE, or TMPDIR, to a folder with some space.",
        ) from None
    pool = ImagePool.map(temporary)
    weakref.finalize(pool, _remove, temporary, descriptor, os.getpid())
    return pool


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing to the cache."""
    for name in names_in(folder):
        # The second kind is that of versions before.
        begun = name.startswith(".images-") and (is_scratch(name) or name.endswith(".pool"))
        if begun and modified_ns(folder / name) < time.time_ns() - _LEFTOVER_NS:
            with suppress(OSError):  # another user's, or another process was quicker
                (folder / name).unlink()


def _write_temporary(parts: Sequence[bytes], folder: Path) -> tuple[Path, int]:
    """Write a file that goes when this process does, and is locked until then; what killed ones left is removed.

    Returns:
        The file and a descriptor that holds its lock.
    """
    for name in names_in(folder):
        if name.startswith(".images-") and name.endswith(".pool"):
            _remove_if_left(folder / name)
    descriptor, path = tempfile.mkstemp(prefix=".images-", suffix=".pool", dir=folder)
    try:
        _lock(descriptor)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.writelines(parts)
    except BaseException:
        os.close(descriptor)
        Path(path).unlink(missing_ok=True)
        raise
    return Path(path), descriptor


def _remove_if_left(file: Path) -> None:
    if modified_ns(file) > time.time_ns() - _LEFTOVER_NS:
        return
    with suppress(OSError), open_regular(file) as opened:  # another user's, or another process was quicker
        if _lock(opened.fileno()):
            file.unlink()


def _lock(descriptor: int) -> bool:
    """Lock a file until this process and those it forks have ended; False where another process has."""
    try:
        import fcntl
    except ImportError:  # Windows, which removes no file that is open
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _remove(file: Path, descriptor: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker has a copy of the pool, and lets go of it first
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _map_again(file: Path, digest: str) -> ImagePool:
    """In a process just spawned.

    Raises:
        DataError: the file is gone, or an index of other images has taken its place.
    """
    try:
        pool = ImagePool.map(file)
    except (OSError, ValueError):
        pool = None
    if pool is None or pool.digest != digest:
        raise DataError(
            f"the unlabelled images changed while processes were being started: {file} is not what it was",
            hint="Start again; images added or removed during training are not seen by it.",
        )
    return pool


def _padded(size: int) -> int:
    return -(-size // 8) * 8


NO_IMAGES = ImagePool.of((), Path("/"))
"""The pool of a recipe, or of a stage, without unlabelled images."""
