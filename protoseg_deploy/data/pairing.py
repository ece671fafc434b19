"""Folders of images, and where the mask of an image lies."""

import os
import re
import stat
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.data.formats import IMAGE_SUFFIXES, missing_reader
from protoseg_deploy.errors import DataError

_PLACEHOLDERS = ("stem", "parent")
_FOLDER = "a folder"
_MOST_PATHS = 1000
_MOST_ENDINGS = 8
# What Windows puts into folders; that of others is hidden.
_LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini")


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
    return (identity := _identity(one)) is not None and identity == _identity(other)


def names_in(folder: Path) -> list[str]:
    """Sorted names of what a folder holds; of one that cannot be listed none."""
    try:
        return sorted(path.name for path in folder.iterdir())
    except (OSError, ValueError):
        return []


def find_images(folder: Path, *, leave_out: Sequence[Path], key: str, faults: list[str]) -> list[Path]:
    """All image files below a folder, sorted; hidden files and folders are skipped, links are followed.

    A file that two paths lead to, through links, is found under both. `unread_files` says what is passed over.

    Args:
        folder: where to start.
        leave_out: folders not to enter, for masks that lie below the images; `folder` itself is always searched.
        key: the recipe key to name when nothing is found.
        faults: an empty folder is added here.

    Raises:
        DataError: links lead to one folder by so many paths that the search would hardly end.
    """
    found = [folder / f"{below}{name}" for below, names in scan_images(folder, leave_out, {}) for name in names]
    if not found:
        faults.append(no_images(folder, key))
    return sorted(found)


def no_images(folder: Path, key: str) -> str:
    """The error for a folder without images."""
    return f"{key}: no images in {folder} ({looked_for(folder)})"


def looked_for(folder: Path) -> str:
    """The endings of images, and what is in a folder instead of them."""
    there = unread_files(folder)
    return "; ".join(filter(None, [f"looked for {', '.join(IMAGE_SUFFIXES)}", there.text, *there.hints]))


def scan_images(
    folder: Path, leave_out: Sequence[Path], scanned: dict[str, int]
) -> Iterator[tuple[str, Sequence[str]]]:
    """All image files below a folder, a few calls to the system per folder and none per file.

    Args:
        folder: where to start.
        leave_out: folders not to enter; `folder` itself is always searched.
        scanned: the folders entered are added here, each with its time of modification as it was before, in ns.

    Yields:
        Where files lie below `folder` (``""`` or ``a/b/``) and their sorted names. All paths that can be put together
        from these come in sorted order, by code points.

    Raises:
        DataError: links lead to one folder by so many paths that the search would hardly end.
    """
    return _walk(folder, leave_out, lambda listed: scanned.__setitem__(str(listed.place), listed.modified_ns))


@dataclass(frozen=True)
class UnreadFiles:
    """What lies below a folder of images and is not read."""

    counts: Mapping[str, int]
    """Files by ending, in lower case with its dot, the most frequent first; ``""`` for those without one."""
    closed: tuple[str, ...]
    """Folders that cannot be listed, each with the reason."""
    empty: tuple[Path, ...]
    """Folders that are named like an image and hold nothing."""

    @property
    def hints(self) -> list[str]:
        """How some of the files could be read."""
        return list(dict.fromkeys(filter(None, map(missing_reader, self.counts))))

    @property
    def text(self) -> str:
        """``4 files are not read: 3 .heic, 1 without an ending``, then folders; empty where all is read."""
        parts = []
        if self.counts:
            shown = [f"{count} {ending or 'without an ending'}" for ending, count in self.counts.items()]
            if len(shown) > _MOST_ENDINGS:
                rest = sum(list(self.counts.values())[_MOST_ENDINGS:])
                shown[_MOST_ENDINGS:] = [f"{rest} with {len(shown) - _MOST_ENDINGS} other endings"]
            total = sum(self.counts.values())
            parts.append(f"{'1 file is' if total == 1 else f'{total} files are'} not read: {', '.join(shown)}")
        if self.empty:
            more = f" and {len(self.empty) - 1} more" if len(self.empty) > 1 else ""
            parts.append(f"{self.empty[0]}{more}: a folder named like an image, with nothing in it")
        return "; ".join([*parts, *self.closed])


def unread_files(folder: Path, leave_out: Sequence[Path] = ()) -> UnreadFiles:
    """Count the files that `find_images` passes over; hidden ones and files of file managers do not count.

    Args:
        folder: where to start.
        leave_out: folders not to enter.

    Raises:
        DataError: as `find_images`.
    """
    counts: Counter[str] = Counter()
    closed: list[str] = []
    empty: list[Path] = []

    def count(listed: _Listing) -> None:
        counts.update(Path(name).suffix.lower() for name in listed.others if name.lower() not in _LITTER)
        if listed.error:
            closed.append(f"{listed.place}: the folder cannot be listed: {listed.error}")
        elif listed.below and is_image_name(listed.place.name) and not (listed.files or listed.folders):
            empty.append(listed.place)

    for _ in _walk(folder, leave_out, count):
        pass
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return UnreadFiles(dict(ordered), tuple(closed), tuple(empty))


@dataclass(frozen=True)
class _Listing:
    """What a folder holds, hidden things aside."""

    place: Path
    below: str
    """Where it lies below the folder that is searched: ``""`` or ``a/b/``."""
    identity: tuple[int, int] | None
    modified_ns: int
    files: list[str]
    """Sorted names of images."""
    folders: list[str]
    """Sorted names of folders, with a slash."""
    others: list[str]
    """Names of all other files."""
    error: str = ""
    """Why it could not be listed."""


def _walk(
    folder: Path, leave_out: Sequence[Path], listed: Callable[[_Listing], object]
) -> Iterator[tuple[str, Sequence[str]]]:
    """As `scan_images`; each folder entered is given to `listed` before its names come.

    Links are followed. One that leads back to a folder it lies in is not, as that would never end.
    """
    skipped = {_identity(path) for path in leave_out} - {_identity(folder)}
    paths: Counter[tuple[int, int] | None] = Counter()
    way: dict[tuple[int, int] | None, _Listing] = {}  # from `folder` to where the search is
    rest: list[tuple[_Listing, Iterator[str], int]] = []  # of each: folders not yet entered, images already given
    place, below = folder, ""
    while True:
        identity = _identity(place)
        if identity not in way and identity not in skipped:
            paths[identity] += 1
            if identity is not None and paths[identity] > _MOST_PATHS:
                raise DataError(
                    f"{place}: links lead to this folder by more than {_MOST_PATHS} paths",
                    hint="Remove links between folders, or name the images in a list.",
                )
            listing = _list(place, below, identity)
            listed(listing)
            way[identity] = listing
            rest.append((listing, iter(listing.folders), 0))
        while rest:
            listing, folders, done = rest.pop()
            name = next(folders, None)
            # Files that come before the folder in the order of whole paths.
            before = len(listing.files) if name is None else bisect_left(listing.files, name)
            yield listing.below, listing.files[done:before]
            if name is not None:
                rest.append((listing, folders, before))
                place, below = listing.place / name[:-1], listing.below + name
                break
            del way[listing.identity]
        else:
            return


def _list(place: Path, below: str, identity: tuple[int, int] | None) -> _Listing:
    listing = _Listing(place, below, identity, modified_ns(place), [], [], [])
    try:
        with os.scandir(place) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith("."):
                    continue
                try:
                    is_folder = entry.is_dir()  # known from the listing, unless it is a link
                except OSError:
                    is_folder = False
                if is_folder:
                    listing.folders.append(f"{name}/")
                elif is_image_name(name):
                    listing.files.append(name)
                else:
                    listing.others.append(name)
    except OSError as error:  # gone in the meantime, or closed to this user
        return _Listing(place, below, identity, GONE, [], [], [], error.strerror or str(error))
    listing.files.sort()
    listing.folders.sort()
    return listing


GONE = -1
"""Time of modification of what is not there."""


def modified_ns(place: Path) -> int:
    """Time of modification in nanoseconds."""
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return GONE


def _identity(place: Path) -> tuple[int, int] | None:
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


@dataclass(frozen=True)
class MaskTemplate:
    """Where a mask lies below the folder of masks.

    ``{stem}`` is the image's name without its suffix, ``{parent}`` its folder relative to the folder of images (empty
    for images right in it).
    """

    text: str
    key: str

    @classmethod
    def parse(cls, text: str, key: str, faults: list[str]) -> "MaskTemplate | None":
        """A template; an unknown placeholder is added to `faults` and gives None."""
        unknown = [name for name in re.findall(r"\{([^{}]*)\}", text) if name not in _PLACEHOLDERS]
        if unknown:
            faults.append(f"{key}: unknown {{{unknown[0]}}} in {text!r}; a template knows {{stem}} and {{parent}}")
            return None
        return cls(text, key)

    def mask_of(self, image: Path, images: Path, masks: Path | None) -> Path | None:
        """The place of an image's mask; None without a folder of masks."""
        if masks is None:
            return None
        parent = image.parent.relative_to(images).as_posix() if image.is_relative_to(images) else "."
        name = self.text.replace("{parent}", "" if parent == "." else parent).replace("{stem}", image.stem)
        return masks / name.lstrip("/")

    def fits(self, mask: Path, masks: Path) -> bool:
        """Whether some image could have this mask."""
        pattern = re.escape(self.text).replace(r"\{stem\}", "[^/]+").replace(r"\{parent\}/", "(.+/)?")
        return re.fullmatch(pattern.replace(r"\{parent\}", ".*"), mask.relative_to(masks).as_posix()) is not None

    def near(self, image: Path, mask: Path) -> str:
        """`` (there is X: …)`` when the folder of the missing mask holds a file that looks meant."""
        names = names_in(mask.parent)
        candidates = (name for name in names if name.startswith(image.stem) and is_image_name(name))
        name = next((name for name in candidates if mask.parent / name != image), None)
        if name is None:
            unread = next((name for name in names if Path(name).stem == image.stem), None)
            return f" (there is {unread}, which is not read)" if unread is not None else ""
        suggestion = name.replace(image.stem, "{stem}", 1)
        folder, slash, _ = self.text.rpartition("/")
        return f" (there is {name}: set {self.key} to '{folder}{slash}{suggestion}'?)"
