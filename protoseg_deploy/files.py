"""Files are written whole or not at all, and only where the caller meant; what is read is a regular file."""

import os
import re
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from protoseg_deploy.errors import UsageError, WriteError

_LONGEST_PATH = 1024
_LONGEST_NAME = 255
_SCRATCH = re.compile(r"\..*\.[0-9a-f]{12}\.tmp", re.DOTALL)


def scratch_path(path: Path) -> Path:
    """A hidden name beside `path` that nobody else uses, on any host or in any container: ``.NAME.RANDOM.tmp``.

    A name too long for the file system with these additions is cut.
    """
    name = os.fsencode(path.name)[:200].decode(errors="ignore")  # file systems count bytes
    return path.with_name(f".{name}.{secrets.token_hex(6)}.tmp")


def is_scratch(name: str) -> bool:
    """Whether a file name is one that `scratch_path` makes."""
    return _SCRATCH.fullmatch(name) is not None


def remove_scratch(folder: Path) -> None:
    """Remove what killed processes were writing in a folder; for the only process that writes there.

    Raises:
        WriteError: something cannot be removed.
    """
    for path in folder.glob(".*.tmp"):
        if not is_scratch(path.name):
            continue
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(path, error) from None


def write_atomically(
    path: Path, content: bytes | Callable[[BinaryIO], object], *, scratch_folder: Path | None = None, sync: bool = True
) -> None:
    """Write to a temporary file beside it, flush that to the disk, rename it into place.

    Args:
        path: its folder is made where there is none.
        content: bytes, or a function that writes them to an open file piece by piece.
        scratch_folder: where the temporary file lies, on the same file system; beside `path` when absent.
        sync: False leaves it to the operating system when the file reaches the disk: a killed program leaves no torn
            file, a power cut may. For many files that can be made again.

    Raises:
        WriteError: the disk is full or the folder cannot be written; an earlier file is left as it was.
    """
    temporary = scratch_path(path if scratch_folder is None else scratch_folder / path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(path, error) from None
        raise


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and the rename is as durable as it gets
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading if it is a regular one, directly or through links; never waits.

    Raises:
        OSError: as `open`; also for a named pipe, a device or a socket, which could be read forever.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(21, "a folder, not a file", str(path))
        if not stat.S_ISREG(mode):
            raise OSError(22, f"{_kind(mode)}, not a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def path_fault(text: str) -> str | None:
    """Why no file system can have a path of these characters, or None; nothing is looked up."""
    if "\0" in text:
        return "a path cannot hold the character NUL"
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        return f"no file name in {sys.getfilesystemencoding()} can hold the character U+{ord(text[error.start]):04X}"
    if len(encoded) > _LONGEST_PATH:
        return f"a path of more than {_LONGEST_PATH:,} bytes"
    if any(len(part) > _LONGEST_NAME for part in re.split(rb"[/\\]", encoded)):
        return f"a file or folder name of more than {_LONGEST_NAME} bytes"
    try:
        Path(text).expanduser()
    except RuntimeError:
        return f"{text.partition('/')[0]} is not a user's home folder here; ./{text} is a folder of that name"
    return None


def resolved(path: Path) -> Path:
    """Absolute, and without links as far as they lead anywhere: links in a circle stay, where `Path.resolve` fails."""
    return Path(os.path.realpath(path))


def read_at_most(file: BinaryIO, most_bytes: int) -> bytes | None:
    """The rest of a file; None where that is more than `most_bytes`. Takes no more memory than the file has bytes."""
    size = os.fstat(file.fileno()).st_size
    content = file.read(min(size, most_bytes) + 1)  # a file that grows meanwhile is larger than it said
    return content if len(content) <= min(size, most_bytes) else None


def _kind(mode: int) -> str:
    kinds = ((stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def require_inside(folder: Path, path: Path) -> None:
    """Refuse to write or delete below `folder` through a link: what it points to is not the folder's.

    Args:
        folder: the folder a command was given; may itself be reached through links.
        path: a file or folder below it, there or not.

    Raises:
        UsageError: `path`, or a folder between the two, is a link or lies outside.
    """
    relative = path.relative_to(folder)
    place = folder
    for part in relative.parts:
        place = place / part
        if part == ".." or os.path.islink(place):  # noqa: PTH114  Path.is_symlink raises where a path is too long
            raise UsageError(
                f"{place} is a link: nothing is written or deleted through it",
                "Remove the link, or choose another folder for the output.",
            )


def require_no_overwriting(outputs: Iterable[Path], inputs: Iterable[Path], option: str) -> None:
    """Refuse to start where an output would replace an input, by whatever path, link or hard link it is reached.

    Args:
        outputs: files to be written, there or not.
        inputs: files and folders that are read.
        option: what the user can change, such as ``--out``.

    Raises:
        UsageError: an output is an input; the message names both.
    """
    there = {output: identity for output in outputs if (identity := _identity(output)) is not None}
    if not there:  # as a rule, and then 100,000 inputs need not be looked at
        return
    known: dict[tuple[int, int] | None, Path] = {_identity(path): path for path in inputs}
    for output, identity in there.items():
        replaced = known.get(identity)
        if replaced is not None:
            raise UsageError(
                f"{output} is the input {replaced}: it would be replaced",
                f"Choose another {option}; nothing was written.",
            )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
