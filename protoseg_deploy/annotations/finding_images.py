"""The image file that an annotation means: sources name it by paths of other machines, or by its stem alone."""

import functools
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.annotations.shapes import BadRecordError, FoundImage
from protoseg_deploy.data.images import ImageHeader, image_header
from protoseg_deploy.data.paths import identity_of, is_image_name
from protoseg_deploy.errors import DataError
from protoseg_deploy.files import path_fault
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.recipe.types import ExifPolicy


@dataclass(frozen=True)
class ImageFinder:
    """Looks for images below some folders."""

    roots: tuple[Path, ...]
    exif: ExifPolicy = "apply"

    def find(self, name: str) -> FoundImage:
        """The image of a name: as it is below a folder, or without some of its first folders.

        Drives, ``..`` and a leading slash are left out: nothing outside the folders is looked at.

        Raises:
            BadRecordError: there is none.
        """
        for relative in _tails(name):
            there = [root for root in self.roots if os.path.isfile(root / relative)]  # noqa: PTH113  quicker for the many that are not there
            if found := self._only([FoundImage(root / relative, relative) for root in there]):
                return found
        raise self._missing(name)

    def find_stem(self, name: str, endings: Sequence[str] = ("",)) -> FoundImage:
        """The image whose name is a stem with any ending of images.

        Args:
            name: with folders, without ending.
            endings: what the stem of the image may have in addition.

        Raises:
            BadRecordError: there is none, or several.
        """
        for relative in _tails(name):
            for ending in endings:
                stem = f"{relative.name}{ending}"
                there = [
                    FoundImage(root / relative.parent / image, relative.parent / image)
                    for root in self.roots
                    for image in stems_in(root / relative.parent).get(stem, ())
                ]
                if found := self._only(there):
                    return found
        raise self._missing(f"{name}.*")

    def require_size(self, found: FoundImage, size: tuple[int, int]) -> None:
        """Refuse an image that is not what was annotated.

        Raises:
            BadRecordError: it is of another size, or cannot be read.
        """
        height, width = size
        header = self._header(found)
        if header.size == size:
            return
        turned = ""
        if header.orientation != 1 and header.size == (width, height):
            other = "apply" if self.exif == "ignore" else "ignore"
            turned = f"; it has EXIF orientation {header.orientation}: try --exif {other}"
        raise BadRecordError(
            f"annotated at {width}x{height} pixels, but {found.path} has {header.width}x{header.height}{turned}"
        )

    def size(self, found: FoundImage) -> tuple[int, int]:
        """Height and width of an image.

        Raises:
            BadRecordError: it cannot be read.
        """
        return self._header(found).size

    def _header(self, found: FoundImage) -> ImageHeader:
        try:
            return image_header(found.path, ImageReading(exif=self.exif, bands=(1,)))
        except DataError as error:
            raise BadRecordError(f"its image cannot be read: {error.message}") from None

    def _only(self, found: Sequence[FoundImage]) -> FoundImage | None:
        """The one that was found; two roots may lead to one file."""
        if len(found) > 1 and len({identity_of(one.path) for one in found}) > 1:
            raise BadRecordError(f"several images could be meant: {', '.join(str(one.path) for one in found)}")
        return found[0] if found else None

    def _missing(self, name: str) -> BadRecordError:
        return BadRecordError(f"no image {name} in {', '.join(map(str, self.roots)) or 'any folder'}")


@functools.lru_cache(maxsize=64)
def stems_in(folder: Path) -> dict[str, tuple[str, ...]]:
    """Names of the images right in a folder by their stems."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in sorted(_entries(folder), key=lambda entry: entry.name):
        if is_image_name(entry.name) and not entry.name.startswith("."):
            stem = Path(entry.name).stem
            found[stem] = (*found.get(stem, ()), entry.name)
    return found


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (OSError, ValueError):
        return []


def _tails(name: str) -> Iterator[Path]:
    """``a/b/c.jpg``, ``b/c.jpg``, ``c.jpg``."""
    parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".", "..") and not part.endswith(":")]
    if path_fault(name) is None:
        yield from (Path(*parts[start:]) for start in range(len(parts)))
