"""Paths of a recipe, and what lies at them."""

import stat
from pathlib import Path

from protoseg_deploy.data.formats import IMAGE_SUFFIXES

_FOLDER = "a folder"

GONE = -1
"""Time of modification of what is not there."""


def expanded(name: str) -> Path:
    """A path of a recipe, ``~`` replaced; the name of a user that does not exist stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def folder_of(root: Path, name: str | None, key: str, faults: list[str]) -> Path | None:
    """The folder a key names, below `root`; None when the key is not set. A missing folder is added to `faults`."""
    if name is None:
        return None
    folder = root / expanded(name)
    reason = trouble_with(folder)
    if reason == _FOLDER:
        return folder
    faults.append(
        f"{key}: {'no such folder' if reason == 'no such file' else reason or 'is a file, not a folder'}: {folder}"
    )
    return None


def trouble_with(path: Path) -> str:
    """Why a path is no file that can be read, for all that its status says; empty for one that is."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a broken link" if path.is_symlink() else "no such file"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    except ValueError:
        return "no name that a file can have"
    if stat.S_ISREG(mode):
        return ""
    return _FOLDER if stat.S_ISDIR(mode) else "a named pipe or a device"


def is_folder(path: Path) -> bool:
    """Unlike `Path.is_dir` it raises for no name and no permission."""
    return trouble_with(path) == _FOLDER


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, through links."""
    return (identity := identity_of(one)) is not None and identity == identity_of(other)


def names_in(folder: Path) -> list[str]:
    """Sorted names of what a folder holds; of one that cannot be listed none."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError):
        return []


def modified_ns(place: Path) -> int:
    """Time of modification in nanoseconds."""
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return GONE


def identity_of(place: Path) -> tuple[int, int] | None:
    """What is the same for all paths that lead to one file or folder; None where nothing can be found."""
    try:
        status = place.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def name_below(file: Path, folder: Path) -> str:
    """The path relative to a folder it lies in, with slashes; otherwise as it is."""
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else file.as_posix()


def is_image_name(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
