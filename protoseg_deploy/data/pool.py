"""The unlabelled images of a recipe: an index of names in a file that every process maps, and none copies.

A million paths take 300 MB as Python objects, in time once more in every data-loader worker, and are searched again
at every start. Here they are one string of bytes and one array of offsets, some 40 MB in all, whose pages processes
share; and a large index is kept in a cache folder, so that the next start looks at the folders again, but not at the
files in them.

An index is a safetensors file of two tensors: ``names``, uint8, as the file system has them in sorted order, each
ended by a zero byte; and ``offsets``, int64 ``[images + 1]``, where each name begins. Its metadata are the format, the
facts (see `Facts`) as JSON, and the SHA-256 of facts and tensors. An index that is damaged, of another version or of
another user is rebuilt.
"""

import hashlib
import json
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np
from platformdirs import user_cache_path
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from protoseg_deploy.data.paths import expanded, modified_ns, names_in
from protoseg_deploy.errors import DataError, ProtosegError, WriteError
from protoseg_deploy.files import is_scratch, open_regular, write_atomically

Search = Callable[[dict[str, int]], Iterable[tuple[str, Sequence[str]]]]
"""Makes a search. It adds the folders and files it looks into to its argument, each with its time of modification in
ns, and gives what comes before names (``"a/b/"``) with names, all in sorted order."""

LARGE_POOL = 10_000
"""Up to so many images an index is rebuilt each time and held in memory: that is quicker than looking it up."""

_FORMAT = "protoseg pool 3"
_HASHED_AT_ONCE = 2**20
# Time stamps of file systems are coarse: a folder modified so shortly before it was read may have been modified again
# within the same tick.
_SETTLED_NS = 2 * 10**9
_LEFTOVER_NS = 3600 * 10**9
"""What is being written for so long is not being written any more."""


class Facts(NamedTuple):
    """What an index says of itself."""

    base: str
    """Folder where names start."""
    sha256: str
    """Of the names."""
    found_ns: int
    """When they were looked for."""
    sources: dict[str, int]
    """The folders and list files the names were read from, each with its time of modification in ns."""


class ImagePool(Sequence[Path]):
    """Absolute paths of images, sorted; made one at a time when asked for.

    A large one pickles as the path of its file, so that spawned processes map the same pages.

    Args:
        facts: of the index.
        offsets: int64 ``[images + 1]``, in memory or in a mapped file; only slices are taken.
        names: uint8 ``[bytes]``, likewise.
        file: the mapped file; None for an index in memory.
    """

    def __init__(self, facts: Facts, offsets: Any, names: Any, file: Path | None = None) -> None:
        self.base = Path(facts.base)
        self.digest = facts.sha256
        """SHA-256 of the names, relative to `base`: equal for the same images, wherever they lie."""
        self._facts, self._offsets, self._names, self._file = facts, offsets, names, file
        self._length = _length(offsets) - 1

    @classmethod
    def of(cls, names: Iterable[str], base: Path) -> "ImagePool":
        """A pool in memory of names relative to `base`; absolute ones stay what they are."""
        return _searched(base, lambda _: [("", sorted(set(names)))])

    @classmethod
    def map(cls, file: Path) -> "ImagePool":
        """The pool of an index file.

        Raises:
            OSError: there is no such file, or it is another user's.
            ValueError: it holds no index, one of another version, or a damaged one.
        """
        with open_regular(file) as opened:
            if hasattr(os, "getuid") and os.fstat(opened.fileno()).st_uid != os.getuid():
                raise PermissionError(1, "belongs to another user", str(file))
        try:
            index: Any = safe_open(file, framework="np")
            metadata = {"format": "", "facts": "", "digest": "", **(index.metadata() or {})}
            offsets, names = index.get_slice("offsets"), index.get_slice("names")
        except SafetensorError as error:
            raise ValueError(f"not an index of images: {error}") from None
        facts = metadata["facts"]
        if metadata["format"] != _FORMAT or metadata["digest"] != _digest(facts, offsets, names):
            raise ValueError("an index of images of another version, or a damaged one")
        return cls(Facts(*json.loads(facts)), offsets, names, file)

    def save(self, file: BinaryIO) -> None:
        """Write the index, as `map` reads it."""
        facts = json.dumps(self._facts)
        metadata = {"format": _FORMAT, "facts": facts, "digest": _digest(facts, self._offsets, self._names)}
        file.write(save({"offsets": self._offsets[:], "names": self._names[:]}, metadata))

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...

    def __getitem__(self, index: int | slice) -> Path | tuple[Path, ...]:
        if isinstance(index, slice):
            return tuple(self[number] for number in range(*index.indices(len(self))))
        number = range(len(self))[index]
        begin, end = self._offsets[number : number + 2].tolist()
        return self.base / os.fsdecode(self._names[begin : end - 1].tobytes())

    def __reduce__(self) -> tuple[Callable[..., "ImagePool"], tuple[Any, ...]]:
        if self._file is None:
            return ImagePool, (self._facts, self._offsets, self._names)
        return _map_again, (self._file, self.digest)

    def is_current(self) -> bool:
        """Whether all it was made from is as it was, for all that times of modification can tell."""
        settled = self._facts.found_ns - _SETTLED_NS
        sources = self._facts.sources.items()
        return all(modified <= settled and modified_ns(Path(place)) == modified for place, modified in sources)


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
    pool = _searched(base, find)
    return _keep(pool, file) if len(pool) > LARGE_POOL else pool


def cache_folder() -> Path:
    """``$PROTOSEG_CACHE``, else ``protoseg`` in the user's cache folder."""
    if chosen := os.environ.get("PROTOSEG_CACHE"):
        return expanded(chosen).absolute()
    try:
        return user_cache_path("protoseg", appauthor=False).absolute()
    except RuntimeError:  # a user without a home: as good as a folder that cannot be written to
        return Path(os.devnull) / "protoseg"


def _searched(base: Path, find: Search) -> ImagePool:
    found_ns = time.time_ns()
    sources: dict[str, int] = {}
    chunks = [os.fsencode(before + f"\0{before}".join(names) + "\0") for before, names in find(sources) if names]
    joined = b"".join(chunks)
    names = np.frombuffer(joined, np.uint8)
    offsets = np.concatenate([[0], np.flatnonzero(names == 0) + 1]).astype(np.int64)
    return ImagePool(Facts(str(base), hashlib.sha256(joined).hexdigest(), found_ns, sources), offsets, names)


def _length(values: Any) -> int:
    """Of an array, or of a tensor in a file."""
    return int(values.shape[0] if isinstance(values, np.ndarray) else values.get_shape()[0])


def _digest(facts: str, *tensors: Any) -> str:
    digest = hashlib.sha256(facts.encode())
    for tensor in tensors:
        length = _length(tensor)
        for first in range(0, length, _HASHED_AT_ONCE):
            digest.update(tensor[first : min(length, first + _HASHED_AT_ONCE)].tobytes())
    return digest.hexdigest()


def _keep(pool: ImagePool, file: Path) -> ImagePool:
    """Write an index to its place in the cache; where that cannot be, to a temporary file."""
    try:
        _remove_leftovers(file.parent)
        write_atomically(file, pool.save)
        return ImagePool.map(file)
    except (WriteError, OSError):
        pass  # all that is lost is time at the next start
    try:
        temporary, descriptor = _write_temporary(pool, Path(tempfile.gettempdir()))
    except OSError as error:
        raise ProtosegError(
            f"the index of the unlabelled images cannot be written: {error.strerror}",
            "Set PROTOSEG_CACHE, or TMPDIR, to a folder with some space.",
        ) from None
    mapped = ImagePool.map(temporary)
    weakref.finalize(mapped, _remove, temporary, descriptor, os.getpid())
    return mapped


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing to the cache."""
    for name in names_in(folder):
        # The second kind is that of versions before.
        begun = name.startswith(".images-") and (is_scratch(name) or name.endswith(".pool"))
        if begun and modified_ns(folder / name) < time.time_ns() - _LEFTOVER_NS:
            with suppress(OSError):  # another user's, or another process was quicker
                (folder / name).unlink()


def _write_temporary(pool: ImagePool, folder: Path) -> tuple[Path, int]:
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
            pool.save(file)
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


NO_IMAGES = ImagePool.of((), Path("/"))
"""The pool of a recipe, or of a stage, without unlabelled images."""
