"""What one image file, or one image with its mask, turns out to be; and those of a whole data set, in threads."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from protoseg_deploy.data.folders import DataSets
from protoseg_deploy.data.formats import open_file
from protoseg_deploy.data.images import ImageHeader, image_header, read_image, used_share
from protoseg_deploy.data.masks import Mask, open_mask
from protoseg_deploy.data.pairs import size_fault, values_fault
from protoseg_deploy.data.sample import Sample
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Color, ImageReading, MaskReading, Recipe, image_reading, mask_reading

Progress = Callable[[int, int], None]
"""Called with the number of files looked at and the number there are."""

_MOST_THREADS = 8


@dataclass(frozen=True)
class SeenMask:
    """What a mask file holds. Small, as there is one for every mask of a data set."""

    path: Path
    pixels: Mapping[int, int]
    """How often each value occurs, after the value map."""
    palette: Mapping[int, Color] | None
    """Of a palette mask, the colours of the stored indices that occur."""
    channels: int
    """1: of indices; 3: of colours, or of grey saved as such."""
    orientation: int

    @classmethod
    def of(cls, path: Path, mask: Mask) -> "SeenMask":
        counts = np.bincount(mask.indices.ravel(), minlength=256)
        pixels = {int(value): int(counts[value]) for value in np.flatnonzero(counts)}
        return cls(path, pixels, mask.palette, mask.channels, mask.orientation)


@dataclass(frozen=True)
class Seen:
    """What one image and its mask turned out to be."""

    image: Path
    size: tuple[int, int] | None = None
    """Height and width as read; None where they cannot be."""
    digest: bytes | None = None
    """Of the file; None where the image was not decoded."""
    header: ImageHeader | None = None
    used: float | None = None
    """`used_share` of the image; None where it was not decoded."""
    mask: SeenMask | None = None
    faults: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def look_at_image(path: Path, reading: ImageReading, *, decode: bool) -> Seen:
    """Read an image, or its header alone; what is wrong with it is an error in the result."""
    try:
        header = image_header(path, reading)
        if not decode:
            return Seen(path, header.size, header=header)
        image = read_image(path, reading)
        return Seen(path, (image.shape[0], image.shape[1]), _digest(path), header, used_share(image))
    except DataError as error:
        return Seen(path, faults=(error.message,), hints=(error.hint,) if error.hint else ())


def look_at_pair(sample: Sample, images: ImageReading, masks: MaskReading, classes: int) -> Seen:
    """Read an image and its mask; what is wrong with either, or with both together, is an error in the result."""
    seen = look_at_image(sample.image, images, decode=True)
    faults, hints = list(seen.faults), list(seen.hints)
    mask = None
    try:
        if sample.mask is None:
            raise DataError(f"{sample.image}: no mask")
        opened = open_mask(sample.mask, masks)
    except DataError as error:
        faults.append(error.message)
        hints += [error.hint] if error.hint else []
    else:
        if seen.size is not None and (fault := size_fault(sample, seen.size, opened.indices.shape, images)):
            faults.append(fault)
        mask = SeenMask.of(sample.mask, opened)
        if fault := values_fault(sample, mask.pixels, classes, masks.ignore_index):
            faults.append(fault)
    return replace(seen, mask=mask, faults=tuple(faults), hints=tuple(hints))


def look_at_all(
    recipe: Recipe, sets: DataSets, classes: int, limits: tuple[int, int], progress: Progress | None
) -> tuple[list[Seen], list[Seen], list[Seen]]:
    """Labelled and validation pairs, and the unlabelled images looked at within the limits to decode and to open."""
    images_read, masks_read = image_reading(recipe.data), mask_reading(recipe.data)
    decoded, opened = (_evenly_spaced(len(sets.unlabeled), limit) for limit in limits)
    images = {sets.unlabeled[index]: index in decoded for index in sorted(decoded | opened)}
    # Often the labelled images are among the unlabelled ones: read once, nothing of theirs is reported twice.
    paired = {sample.image for sample in [*sets.labeled, *sets.val]}
    unpaired = [image for image in images if image not in paired]
    total = len(sets.labeled) + len(sets.val) + len(unpaired)
    done = 0

    def pair(sample: Sample) -> Seen:
        return look_at_pair(sample, images_read, masks_read, classes)

    def image(path: Path) -> Seen:
        return look_at_image(path, images_read, decode=images[path])

    def counted(results: Iterable[Seen]) -> list[Seen]:
        nonlocal done
        seen = []
        for result in results:
            seen.append(result)
            done += 1
            if progress is not None:
                progress(done, total)
        return seen

    # Decoding releases the interpreter lock, so threads are enough.
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        labeled = counted(pool.map(pair, sets.labeled))
        val = counted(pool.map(pair, sets.val))
        others = counted(pool.map(image, unpaired))
    known = {seen.image: replace(seen, mask=None, faults=(), hints=()) for seen in [*labeled, *val]}
    known |= {seen.image: seen for seen in others}
    return labeled, val, [known[image] for image in images]


def masks_in(part: Sequence[Seen]) -> list[SeenMask]:
    """The masks that could be read."""
    return [seen.mask for seen in part if seen.mask is not None]


def _evenly_spaced(count: int, limit: int) -> set[int]:
    return set(range(count)) if count <= limit else set(np.linspace(0, count - 1, limit).astype(int).tolist())


def _digest(path: Path) -> bytes:
    with open_file(path) as file:
        try:
            return hashlib.file_digest(file, "blake2b").digest()  # type: ignore[arg-type]
        except OSError as error:
            raise DataError(f"{path}: not readable: {error.strerror or error}") from None
