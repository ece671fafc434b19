"""One binary mask for each class of an image: ``photo_crack.png`` and ``photo_rust.png`` belong to ``photo.jpg``.

The format has no order, so smaller regions lie over larger ones. Any one value beside 0 is the class.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.file_jobs import read_bytes
from protoseg_deploy.annotations.finding_images import ImageFinder, stems_in
from protoseg_deploy.annotations.shapes import (
    AnnotatedImage,
    BadRecordError,
    Bitmap,
    DeclaredClass,
    FoundImage,
    Notes,
    Problem,
    Shape,
)
from protoseg_deploy.annotations.source import Job, Source
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import MaskReading

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".pbm", ".ppm")


@dataclass(frozen=True)
class BinaryJob(Job):
    file: Path
    """The folder of the masks."""
    stem: str
    """Of the image, below the folder of all."""
    masks: tuple[tuple[str, Path], ...]
    """Classes and files."""

    @property
    def name(self) -> str:
        return self.stem

    def locate(self, finder: ImageFinder) -> FoundImage:
        return finder.find_stem(self.stem)

    def fingerprint(self) -> bytes:
        return b"".join(name.encode("utf-8", "surrogateescape") + read_bytes(file) for name, file in self.masks)

    def labels(self) -> set[str]:
        return {name for name, _ in self.masks}

    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        size = finder.size(found)
        shapes: list[Shape] = []
        for name, file in self.masks:
            with notes.record(file.name):
                shapes.append(Shape(name, Bitmap(_read(file, size)), file.name))
        return AnnotatedImage(size, tuple(shapes))


def _read(file: Path, size: tuple[int, int]) -> np.ndarray:
    try:
        values = read_mask(file, MaskReading())
    except DataError as error:
        raise BadRecordError(error.message.removeprefix(f"{file}: ")) from None
    if values.shape != size:
        raise BadRecordError(f"{values.shape[1]}x{values.shape[0]} pixels, its image has {size[1]}x{size[0]}")
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    if len(set(found) - {0}) > 1:
        shown = ", ".join(map(str, found[:8])) + (", …" if len(found) > 8 else "")
        raise BadRecordError(f"holds the values {shown}; a binary mask has 0 and one other")
    return values > 0


@contextmanager
def open_binary_masks(look: Look) -> Iterator[Source]:
    """Open a folder of binary masks; see `Reader`."""
    path = look.path
    roots = tuple(filter(None, [look.image_folder])) or (path, path / "images", path.parent / "images")
    groups: dict[str, list[tuple[str, Path]]] = {}
    problems: list[Problem] = []
    for file in look.images:
        below = file.relative_to(path)
        if file.suffix.lower() not in _LOSSLESS or file.stem in _image_stems(below.parent, roots, file):
            continue
        stem = _stem_of_image(file, below, roots)
        if stem is None:
            problems.append(Problem("bad", str(file), "", "no image whose name begins that of the mask, then _CLASS"))
        else:
            groups.setdefault((below.parent / stem).as_posix(), []).append((file.stem[len(stem) + 1 :], file))
    names = sorted({name for masks in groups.values() for name, _ in masks})
    jobs: list[Job | Problem] = [BinaryJob(path, stem, tuple(masks)) for stem, masks in groups.items()]
    yield Source(
        "binary masks",
        lambda: iter([*problems, *jobs]),
        order="area",
        image_roots=roots,
        total=len(jobs),
        classes=tuple(map(DeclaredClass, names)),
    )


def _image_stems(parent: Path, roots: Sequence[Path], file: Path) -> set[str]:
    """Stems of images in the folders where those of a mask could lie, the mask itself left out."""
    stems: set[str] = set()
    for root in roots:
        for place in dict.fromkeys([root / parent, root]):
            stems |= {stem for stem, names in stems_in(place).items() if not _is_only(names, place, file)}
    return stems


def _is_only(names: Sequence[str], place: Path, file: Path) -> bool:
    return place == file.parent and set(names) == {file.name}


def _stem_of_image(file: Path, below: Path, roots: Sequence[Path]) -> str | None:
    """The longest stem of an image with which the name of a mask begins."""
    stems = _image_stems(below.parent, roots, file)
    ends = [at for at, character in enumerate(file.stem) if character == "_" and 0 < at < len(file.stem) - 1]
    return next((file.stem[:at] for at in reversed(ends) if file.stem[:at] in stems), None)
