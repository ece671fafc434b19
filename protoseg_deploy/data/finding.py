"""Images in a folder and below it, and what else lies there."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.data.formats import IMAGE_SUFFIXES, missing_reader
from protoseg_deploy.data.paths import GONE, identity_of, is_image_name, modified_ns
from protoseg_deploy.errors import DataError

_MOST_PATHS = 1000
_MOST_ENDINGS = 8
# What Windows puts into folders; that of others is hidden.
_LITTER = ("thumbs.db", "ehthumbs.db", "desktop.ini")


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
    skipped = {identity_of(path) for path in leave_out} - {identity_of(folder)}
    paths: Counter[tuple[int, int] | None] = Counter()
    way: dict[tuple[int, int] | None, _Listing] = {}  # from `folder` to where the search is
    rest: list[tuple[_Listing, Iterator[str], int]] = []  # of each: folders not yet entered, images already given
    place, below = folder, ""
    while True:
        identity = identity_of(place)
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
