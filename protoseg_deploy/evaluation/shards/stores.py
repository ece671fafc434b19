"""Where images are read from and results go to: local folders, and what fsspec reaches, such as ``s3://bucket/out``."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from protoseg_deploy.errors import DataError, ProtosegError, UsageError, WriteError
from protoseg_deploy.extras import require_library
from protoseg_deploy.files import open_regular, remove_scratch, require_inside, scratch_path, write_atomically

SCRATCH = ".predict.scratch"
"""Folder for what is being written; in a local folder of results."""

_FILE = "file://"
_DRIVE = re.compile(r"/[A-Za-z]:")
_OBJECT_STORES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
}
_DRIVERS = {**_OBJECT_STORES, **dict.fromkeys(("http", "https"), "aiohttp")}


def is_url(text: str) -> bool:
    """Whether a path names its file system: ``s3://bucket/a.jpg``; ``file://`` is a local path written so."""
    return "://" in text and not text.startswith(_FILE)


def plain_path(text: str) -> str:
    """A path without ``file://``; everything else as it is."""
    if not text.startswith(_FILE):
        return text
    path = text.removeprefix(_FILE)
    return path[1:] if os.name == "nt" and _DRIVE.match(path) else path


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        UsageError: fsspec, or its driver for this kind of URL, is not installed, or there is no such kind.
    """
    protocol, _, place = url.rpartition("::")[2].partition("://")
    if not place.strip("/"):
        raise UsageError(f"{url} names no place", f"Write it as {protocol}://BUCKET/FOLDER.")
    fsspec = require_library("fsspec.core", "cloud", f"paths like {url} need")
    try:
        found: tuple[Any, str] = fsspec.url_to_fs(url)
        return found
    except ImportError as error:
        driver = _DRIVERS.get(protocol)
        raise UsageError(f"{url} cannot be reached: {error}", f"pip install {driver}" if driver else "") from None
    except ValueError as error:
        raise UsageError(f"{url} cannot be reached: {error}") from None


def read_content(image: str) -> bytes:
    """The bytes of an image file, local or not.

    Raises:
        DataError: it cannot be read; the message begins with its name.
        MemoryError: it is too large for the memory.
    """
    try:
        if is_url(image):
            system, path = file_system(image)
            content: bytes = system.cat_file(path)
            return content
        with open_regular(Path(image)) as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(f"{image}: no such file") from None
    except (MemoryError, ProtosegError):
        raise
    except OSError as error:
        raise DataError(f"{image}: cannot be read: {error.strerror or error}") from None
    except Exception as error:  # drivers raise what their libraries raise: credentials, time limits, responses
        raise DataError(f"{image}: cannot be read: {_in_one_line(error)}") from None


class Store(Protocol):
    """A folder of results. Files appear whole or not at all; names are relative, with slashes."""

    root: str

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, and ProtosegError for every other reason."""
        ...

    def names(self, folder: str) -> set[str]:
        """Names of the files in a folder; none where there is no such folder."""
        ...

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        """Write a file; `sync`: it is on the disk afterwards. Raises WriteError or ProtosegError."""
        ...

    def writing(self, name: str) -> Any:
        """A context that gives a file to write; it gets its name at the end, unless an error ends the block."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        ...


class LocalStore:
    """A folder of this machine, or one that machines share."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.folder = Path(root)
        self.scratch = self.folder / SCRATCH

    def prepare(self) -> None:
        """Remove what killed calls have left unfinished; for the only one who writes there. Raises WriteError."""
        require_inside(self.folder, self.scratch)
        try:
            self.scratch.mkdir(parents=True, exist_ok=True)
            remove_scratch(self.scratch)
        except OSError as error:
            raise WriteError(self.scratch, error) from None

    def tidy(self, *empty: str) -> None:
        """At the end: what processes that were stopped have left unfinished goes, and folders that may be empty."""
        with suppress(OSError, WriteError):
            remove_scratch(self.scratch)
            self.scratch.rmdir()
        for name in empty:
            with suppress(OSError):
                (self.folder / name).rmdir()

    def read(self, name: str) -> bytes:
        try:
            with open_regular(self.folder / name) as file:
                return file.read()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ProtosegError(f"cannot read {self.folder / name}: {error.strerror or error}") from None

    def names(self, folder: str) -> set[str]:
        try:
            with os.scandir(self.folder / folder) as entries:
                return {entry.name for entry in entries}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise ProtosegError(f"cannot list {self.folder / folder}: {error.strerror or error}") from None

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        write_atomically(self.folder / name, content, scratch_folder=self.scratch, sync=sync)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        target = self.folder / name
        pending = scratch_path(self.scratch / target.name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with pending.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            pending.replace(target)
        except BaseException as error:
            with suppress(OSError):
                pending.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise WriteError(target, error) from None
            raise

    def remove(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / name).unlink(missing_ok=True)


class RemoteStore:
    """A folder that fsspec reaches: a file is one put, which object stores do whole or not at all."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._system, self._path = file_system(root)
        # Object stores have no folders: drivers would make a bucket, of whatever name was mistyped.
        self._has_folders = root.rpartition("::")[2].partition("://")[0] not in _OBJECT_STORES

    def read(self, name: str) -> bytes:
        try:
            content: bytes = self._system.cat_file(self._place(name))
            return content
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ProtosegError(f"cannot read {self.root}/{name}: {_in_one_line(error)}") from None

    def names(self, folder: str) -> set[str]:
        place = self._place(folder) if folder else self._path
        try:
            self._system.invalidate_cache()
            listed = self._system.ls(place, detail=False)
        except FileNotFoundError:
            return set()
        except Exception as error:
            raise ProtosegError(f"cannot list {self.root}/{folder}: {_in_one_line(error)}") from None
        return {name for path in listed if (name := path.rstrip("/").rpartition("/")[2])}

    def write(self, name: str, content: bytes, *, sync: bool = True) -> None:
        place = self._place(name)
        try:
            self._make_folder(place)
            self._system.pipe_file(place, content)
        except Exception as error:
            raise ProtosegError(f"cannot write {self.root}/{name}: {_in_one_line(error)}") from None

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / "content"
            with local.open("xb") as file:
                yield file
            place = self._place(name)
            try:
                self._make_folder(place)
                self._system.put_file(str(local), place)
            except Exception as error:
                raise ProtosegError(f"cannot write {self.root}/{name}: {_in_one_line(error)}") from None

    def remove(self, name: str) -> None:
        with suppress(Exception):  # gone already; drivers have errors of their own
            self._system.rm_file(self._place(name))

    def _make_folder(self, place: str) -> None:
        if self._has_folders:
            self._system.makedirs(place.rpartition("/")[0], exist_ok=True)

    def _place(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"


def open_store(root: str) -> LocalStore | RemoteStore:
    """The store of an output folder, there or not.

    Raises:
        UsageError: see `file_system`.
    """
    if is_url(root):
        file_system(root)  # with its slashes: s3:// is none
        return RemoteStore(root.rstrip("/"))
    return LocalStore(str(Path(plain_path(root)).absolute()))


def _in_one_line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:300]}" if line else type(error).__name__
