"""Folders of images, and where the mask of an image lies."""

import os
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.data.formats import IMAGE_SUFFIXES

_PLACEHOLDERS = ("stem", "parent")


def folder_of(root: Path, name: str | None, key: str, faults: list[str]) -> Path | None:
    """The folder a key names, below `root`; None when the key is not set. A missing folder is added to `faults`."""
    if name is None:
        return None
    folder = root / Path(name).expanduser()
    if folder.is_dir():
        return folder
    reason = "is a file, not a folder" if folder.is_file() else "no such folder"
    faults.append(f"{key}: {reason}: {folder}")
    return None


def find_images(folder: Path, *, leave_out: Sequence[Path], key: str, faults: list[str]) -> list[Path]:
    """All image files below a folder, sorted; hidden files and folders are skipped, links are followed.

    Args:
        folder: where to start.
        leave_out: folders not to enter, for masks that lie below the images; `folder` itself is always searched.
        key: the recipe key to name when nothing is found.
        faults: an empty folder is added here.
    """
    found = [folder / f"{below}{name}" for below, names in scan_images(folder, leave_out, {}) for name in names]
    if not found:
        faults.append(no_images(folder, key))
    return sorted(found)


def no_images(folder: Path, key: str) -> str:
    return f"{key}: no images in {folder} (looked for {', '.join(IMAGE_SUFFIXES)})"


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
    """
    skipped = {_identity(path) for path in leave_out} - {_identity(folder)}
    entered: set[tuple[int, int] | None] = set()

    def scan(place: Path, below: str) -> Iterator[tuple[str, Sequence[str]]]:
        identity = _identity(place)
        if identity in entered or identity in skipped:  # a link back to a parent would never end
            return
        entered.add(identity)
        scanned[str(place)] = modified_ns(place)
        try:
            files, folders = _visible(place)
        except OSError:  # gone in the meantime, or closed to this user
            scanned[str(place)] = GONE
            return
        done = 0
        for name in folders:
            before = bisect_left(files, name)  # files that come before the folder in the order of whole paths
            yield below, files[done:before]
            yield from scan(place / name[:-1], below + name)
            done = before
        yield below, files[done:]

    return scan(folder, "")


def _visible(place: Path) -> tuple[list[str], list[str]]:
    """Sorted names of the images of a folder, and of its subfolders, these with a slash; without hidden ones."""
    files: list[str] = []
    folders: list[str] = []
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
                folders.append(f"{name}/")
            elif is_image_name(name):
                files.append(name)
    files.sort()
    folders.sort()
    return files, folders


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
        names = sorted(file.name for file in mask.parent.iterdir()) if mask.parent.is_dir() else []
        candidates = (name for name in names if name.startswith(image.stem) and is_image_name(name))
        name = next((name for name in candidates if mask.parent / name != image), None)
        if name is None:
            return ""
        suggestion = name.replace(image.stem, "{stem}", 1)
        folder, slash, _ = self.text.rpartition("/")
        return f" (there is {name}: set {self.key} to '{folder}{slash}{suggestion}'?)"
