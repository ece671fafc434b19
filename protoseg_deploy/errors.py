"""Errors that the user can fix.

Everything raised from here is shown by the command line without a traceback: what is wrong, where, and what to do
about it. Anything else that escapes is a bug of ours and keeps its traceback.
"""

import errno
from collections.abc import Sequence
from pathlib import Path

from protoseg_deploy.text import one_line


class ProtosegError(Exception):
    """A failure the user can fix.

    Args:
        message: what is wrong and where (file, key or image).
        hint: how to fix it; may be empty when the message already says so.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(ProtosegError):
    """The command or the recipe asks for something that does not exist or does not fit together."""

    exit_code = 2


class RecipeError(UsageError):
    """One or more errors in a recipe, reported together."""

    def __init__(self, source: str, faults: Sequence[str]) -> None:
        count = "1 error" if len(faults) == 1 else f"{len(faults)} errors"
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  {one_line(fault)}" for fault in faults))
        self.faults = tuple(faults)


_WRITE_HINTS = (
    dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space or choose another folder")
    | dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write into")
    | dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "Something else has this name: choose another one")
    | {errno.ENAMETOOLONG: "Choose a shorter name"}
)


class WriteError(ProtosegError):
    """A file could not be written; what was there before is as it was.

    Args:
        path: the file.
        error: why.

    Attributes:
        errno: number of the system's error, where it has one.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(
            f"cannot write {path}: {error.strerror or error}",
            f"{_WRITE_HINTS.get(error.errno or 0, 'Choose another place')}; nothing was replaced.",
        )
        self.errno = error.errno


class DataError(ProtosegError):
    """Images, masks or folders that cannot be used; lists every error found, each with its file."""

    def __init__(self, summary: str, faults: Sequence[str] = (), hint: str = "", shown: int = 20) -> None:
        lines = [summary, *(f"  {one_line(fault)}" for fault in faults[:shown])]
        if len(faults) > shown:
            lines.append(f"  … and {len(faults) - shown} more")
        super().__init__("\n".join(lines), hint)
        self.summary = summary
        self.faults = tuple(faults)
