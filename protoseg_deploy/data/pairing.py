"""Folders of images, and where the mask of an image lies."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.data.images import IMAGE_SUFFIXES

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
    skipped = {path.resolve() for path in leave_out} - {folder.resolve()}
    found: list[Path] = []
    entered: set[Path] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        resolved = here.resolve()
        if resolved in entered or resolved in skipped:  # a link back to a parent would never end
            subfolders.clear()
            continue
        entered.add(resolved)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [here / name for name in names if not name.startswith(".") and is_image_name(name)]
    if not found:
        faults.append(f"{key}: no images in {folder} (looked for {', '.join(IMAGE_SUFFIXES)})")
    return sorted(found)


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
