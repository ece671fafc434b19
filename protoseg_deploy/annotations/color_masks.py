"""Masks that show a colour for each class, with a table of names and colours; and masks with Pascal VOC's layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoseg_deploy.annotations.class_files import read_classes
from protoseg_deploy.annotations.detecting import TABLES, Look
from protoseg_deploy.annotations.file_jobs import FileJob
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.shapes import AnnotatedImage, BadRecordError, DeclaredClass, FoundImage, Notes
from protoseg_deploy.annotations.source import Source
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.recipe import Color, MaskReading

_VOC_IGNORED: tuple[Color, ...] = ((224, 224, 192),)
"""The borders between objects in Pascal VOC, index 255."""
_VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_ENDINGS = ("", "_L", "_mask", "_gt", "_label", "_labels", "_color", "_seg")
"""What masks of common data sets have after the stem of their image."""


@dataclass(frozen=True)
class MaskJob(FileJob):
    """A mask with indices or colours."""

    reading: MaskReading

    def labels(self) -> set[str]:
        return set()  # such sources declare their classes

    def locate(self, finder: ImageFinder) -> FoundImage:
        stem = self.relative.with_suffix("").as_posix()
        stems = [stem, *(stem.removesuffix(ending) for ending in _ENDINGS if ending and stem.endswith(ending))]
        first: BadRecordError | None = None
        for one in stems:
            try:
                found = finder.find_stem(one)
            except BadRecordError as error:
                first = first or error
            else:
                if found.path != self.file:
                    return found
        raise first or BadRecordError(f"no image beside the mask {self.file}")

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        try:
            mask = read_mask(self.file, self.reading)
        except DataError as error:
            raise BadRecordError(error.message.removeprefix(f"{self.file}: ")) from None
        strange = [value for value in np.unique(mask).tolist() if value >= len(self.reading.colors) and value != 255]
        if strange:
            raise BadRecordError(f"indices that are no class: {', '.join(map(str, strange[:10]))}")
        return AnnotatedImage(mask.shape, mask=mask)


@contextmanager
def open_color_masks(look: Look) -> Iterator[Source]:
    """Open a folder of colour masks with its table; see `Reader`."""
    path = look.path
    classes = _table(look)
    colors = tuple(one.color for one in classes if one.color is not None)
    reading = MaskReading(colors=colors, palette_masks="colors")
    root = _masks_below(path, look.images)
    jobs = [MaskJob(file, root, reading) for file in look.images if _is_below(file, root) and _is_lossless(file)]
    yield Source(
        "colour masks",
        lambda: iter(jobs),
        order="file",
        image_roots=(root.parent / "images", root.parent, path / "images", root),
        total=len(jobs),
        classes=classes,
        unlabeled="ignore",
    )


def _table(look: Look) -> tuple[DeclaredClass, ...]:
    tables = look.named(*TABLES)
    if look.classes is not None and all(one.color is not None for one in look.classes):
        return look.classes
    if len(tables) != 1:
        there = f" There are {', '.join(map(str, tables))}." if tables else ""
        raise UsageError(
            f"{look.path}: colour masks need one table of colours, named {', '.join(TABLES)}.{there}",
            "Give it with --classes FILE: a line for each class, name,r,g,b.",
        )
    classes = read_classes(tables[0])
    if any(one.color is None for one in classes):
        raise DataError(f"{tables[0]}: classes without a colour", hint="Write a line for each class: name,r,g,b.")
    return classes


def _masks_below(path: Path, images: list[Path]) -> Path:
    """A sub-folder for masks, where there is one and another for images."""
    for name in ("masks", "labels", "annotations", "SegmentationClass", "gt", "LabeledApproved_full"):
        if any(path / name in file.parents for file in images):
            return path / name
    return path


def _is_below(file: Path, folder: Path) -> bool:
    return folder in file.parents


def _is_lossless(file: Path) -> bool:
    return file.suffix.lower() not in (".jpg", ".jpeg", ".jfif", ".webp", ".avif", ".heic", ".heif")


@contextmanager
def open_voc(look: Look) -> Iterator[Source]:
    """Open ``SegmentationClass``; see `Reader`."""
    path = look.path
    folder = path.parent
    table = folder / "labelmap.txt"
    if table.is_file():
        classes = read_classes(table)
    else:
        classes = tuple(DeclaredClass(name, color) for name, color in zip(_VOC_NAMES, voc_palette(21), strict=True))
    colors = tuple(one.color or (0, 0, 0) for one in classes)
    files = [file for file in look.images if _is_lossless(file)]
    has_table = table.is_file()
    jobs = [MaskJob(file, path, _voc_reading(colors, has_table)) for file in files]
    yield Source(
        "Pascal VOC",
        lambda: iter(jobs),
        order="file",
        image_roots=(folder / "JPEGImages", folder / "images", folder),
        total=len(jobs),
        classes=classes,
        unlabeled="ignore",
    )


def _voc_reading(colors: tuple[Color, ...], has_table: bool) -> MaskReading:
    """Palettes are looked up where a table says what their colours mean; VOC's own masks hold indices."""
    ignored = tuple(color for color in _VOC_IGNORED if color not in colors)
    by_color = has_table and len(set(colors)) == len(colors)
    return MaskReading(colors=colors, ignore_colors=ignored, palette_masks="colors" if by_color else "indices")


def voc_palette(count: int) -> list[Color]:
    """Pascal VOC's colours: the bits of an index, lowest first, become the highest of red, green, blue in turn."""
    colors: list[Color] = []
    for index in range(count):
        red = green = blue = 0
        for place in range(8):
            red |= (index >> 3 * place & 1) << 7 - place
            green |= (index >> 3 * place + 1 & 1) << 7 - place
            blue |= (index >> 3 * place + 2 & 1) << 7 - place
        colors.append((red, green, blue))
    return colors
