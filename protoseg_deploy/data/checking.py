"""Looks into every file before a run depends on it; all faults at once, each with its file.

Labelled and validation pairs are decoded completely. Unlabelled images are decoded too, up to a limit; beyond it an
evenly spaced part is decoded and the headers of the others are read, and these have a limit as well.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data import suspicions
from protoseg_deploy.data.folders import DataSets, Sample
from protoseg_deploy.data.images import ImageHeader, image_header, read_image, used_share
from protoseg_deploy.data.masks import open_mask
from protoseg_deploy.data.pairs import size_fault
from protoseg_deploy.data.report import DataReport, PartSummary
from protoseg_deploy.data.value_range import with_measured_range
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import (
    ClassTable,
    ImageReading,
    MaskReading,
    Recipe,
    class_table,
    image_reading,
    mask_reading,
)

Progress = Callable[[int, int], None]
"""Called with the number of files looked at and the number there are."""

_MOST_THREADS = 8


@dataclass(frozen=True)
class _Seen:
    """What one image and its mask turned out to be."""

    image: Path
    size: tuple[int, int] | None = None
    digest: bytes | None = None
    header: ImageHeader | None = None
    used: float | None = None
    """`used_share` of the image, where it was decoded."""
    mask_orientation: int = 1
    """EXIF orientation of the mask."""
    pixels: NDArray[np.int64] | None = None
    """``[256]``: how often each mask value occurs, after the value map."""
    faults: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def check_before_training(recipe: Recipe, sets: DataSets) -> tuple[str, ...]:
    """The warnings of a check that takes seconds, however many unlabelled images there are.

    Raises:
        DataError: as `check_data`.
        UsageError: as `check_data`.
    """
    return check_data(recipe, sets, decode_limit=200, open_limit=2_000).warnings


def check_data(
    recipe: Recipe,
    sets: DataSets,
    *,
    decode_limit: int = 2_000,
    open_limit: int = 20_000,
    progress: Progress | None = None,
) -> DataReport:
    """Read the files of a recipe and report what they hold.

    Args:
        recipe: classes, ignore index, value map; the method decides whether a class without a label is a fault.
        sets: the files, from `find_data`.
        decode_limit: at most this many unlabelled images are decoded, evenly spaced.
        open_limit: about this many, evenly spaced, are opened at all; of those not decoded the header is read.
        progress: told how far the check is.

    Returns:
        Counts, sizes, class shares and warnings.

    Raises:
        DataError: files are unreadable (unlabelled ones: more of those opened than ``data.max_unreadable_share``), an
            image and its mask differ in size, a mask holds values that are no class, or a class has no labelled pixel
            although the method needs one. Every fault is listed.
        UsageError: the JSON file of classes cannot be read.
    """
    classes = class_table(recipe.data)
    recipe = with_measured_range(recipe, sets)
    labeled, val, unlabeled = _look_at_all(recipe, sets, len(classes), (decode_limit, open_limit), progress)
    unreadable = [seen for seen in unlabeled if seen.faults]
    tolerated = len(unreadable) <= recipe.data.max_unreadable_share * len(unlabeled)
    complained = [*labeled, *val, *(() if tolerated else unreadable)]
    faults = [fault for seen in complained for fault in seen.faults]
    hints = [hint for seen in complained for hint in seen.hints]
    if not sets.labeled:
        faults.append("there is no labelled image")
    if not tolerated:
        hints.append(
            "Unlabelled images that cannot be read are replaced by others in training while their share is within "
            f"data.max_unreadable_share={recipe.data.max_unreadable_share:g}."
        )
    warnings = [*_unused_masks(sets), *_small_images(recipe, sets, labeled, unlabeled), *_few_images(recipe, sets)]
    if not faults:  # what unread masks might hold is not complained about
        labeled_summary, val_summary = _summary(labeled, len(classes)), _summary(val, len(classes))
        unlabeled_decoded = sum(seen.digest is not None for seen in unlabeled)
        _check_classes(recipe, classes, labeled_summary, val_summary, faults, hints, warnings)
        warnings += _suspicious_images(labeled, val, unlabeled, recipe.data.exif)
        warnings += _only_ignored(labeled, val, len(classes))
        warnings += _leakage(labeled, val, unlabeled)
        warnings += _unreadable(unreadable)
        warnings += _not_looked_at(len(sets.unlabeled), len(unlabeled), len(unreadable), unlabeled_decoded)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError(f"the data of the recipe cannot be used: {count}", faults, "\n".join(dict.fromkeys(hints)))
    return DataReport(
        classes=classes,
        labeled=labeled_summary,
        labeled_pool=sets.labeled_pool,
        unlabeled=PartSummary.of(len(sets.unlabeled), _sizes(unlabeled)),
        unlabeled_opened=len(unlabeled),
        unlabeled_decoded=unlabeled_decoded,
        val=val_summary,
        warnings=tuple(warnings),
    )


def _look_at_all(
    recipe: Recipe, sets: DataSets, classes: int, limits: tuple[int, int], progress: Progress | None
) -> tuple[list[_Seen], list[_Seen], list[_Seen]]:
    """Labelled and validation pairs, and the unlabelled images looked at within the limits to decode and to open."""

    images_read, masks_read = image_reading(recipe.data), mask_reading(recipe.data)

    def look_at_pair(sample: Sample) -> _Seen:
        return _look_at_pair(sample, images_read, masks_read, classes)

    def look_at_image(path: Path, decode: bool) -> _Seen:
        return _look_at_image(path, images_read, decode)

    decoded, opened = (_evenly_spaced(len(sets.unlabeled), limit) for limit in limits)
    images = {sets.unlabeled[index]: index in decoded for index in sorted(decoded | opened)}
    # Often the labelled images are among the unlabelled ones: read once, nothing of theirs is reported twice.
    paired = {sample.image for sample in [*sets.labeled, *sets.val]}
    unpaired = [image for image in images if image not in paired]
    total = len(sets.labeled) + len(sets.val) + len(unpaired)
    done = 0

    def counted(results: Iterable[_Seen]) -> list[_Seen]:
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
        labeled = counted(pool.map(look_at_pair, sets.labeled))
        val = counted(pool.map(look_at_pair, sets.val))
        others = counted(pool.map(look_at_image, unpaired, [images[image] for image in unpaired]))
    known = {seen.image: replace(seen, pixels=None, faults=(), hints=()) for seen in [*labeled, *val]}
    known |= {seen.image: seen for seen in others}
    return labeled, val, [known[image] for image in images]


def _evenly_spaced(count: int, limit: int) -> set[int]:
    return set(range(count)) if count <= limit else set(np.linspace(0, count - 1, limit).astype(int).tolist())


def _look_at_image(path: Path, reading: ImageReading, decode: bool) -> _Seen:
    try:
        header = image_header(path, reading)
        if not decode:
            return _Seen(path, header.size, header=header)
        image = read_image(path, reading)
        return _Seen(path, (image.shape[0], image.shape[1]), _digest(path), header, used_share(image))
    except DataError as error:
        return _Seen(path, faults=(error.message,), hints=(error.hint,) if error.hint else ())


def _look_at_pair(sample: Sample, images: ImageReading, masks: MaskReading, classes: int) -> _Seen:
    ignore_index = masks.ignore_index
    seen = _look_at_image(sample.image, images, decode=True)
    faults, hints = list(seen.faults), list(seen.hints)
    pixels = None
    try:
        if sample.mask is None:
            raise DataError(f"{sample.image}: no mask")
        opened = open_mask(sample.mask, masks)
        mask = opened.indices
        seen = replace(seen, mask_orientation=opened.orientation)
    except DataError as error:
        faults.append(error.message)
        hints += [error.hint] if error.hint else []
    else:
        if seen.size is not None and (fault := size_fault(sample, seen.size, mask.shape, images)):
            faults.append(fault)
        pixels = np.bincount(mask.ravel(), minlength=256)
        wrong = [int(value) for value in np.flatnonzero(pixels) if value >= classes and value != ignore_index]
        if wrong:
            shown = ", ".join(map(str, wrong[:10])) + (", …" if len(wrong) > 10 else "")
            faults.append(
                f"{sample.mask}: ids out of range: {shown} in {int(pixels[wrong].sum())} pixels "
                f"(classes are 0 to {classes - 1}, ignored is {ignore_index})"
            )
            hints.append(
                f"data.value_map replaces mask values: '{{{wrong[0]}: {ignore_index}}}' ignores these, "
                f"'{{{wrong[0]}: {classes - 1}}}' merges them into another class."
            )
    return replace(seen, pixels=pixels, faults=tuple(faults), hints=tuple(hints))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()


def _sizes(part: Sequence[_Seen]) -> list[tuple[int, int]]:
    return [seen.size for seen in part if seen.size is not None]


def _summary(part: Sequence[_Seen], classes: int) -> PartSummary:
    pixels = [seen.pixels for seen in part if seen.pixels is not None]
    return PartSummary.of(len(part), _sizes(part), np.stack(pixels) if pixels else None, classes)


def _check_classes(
    recipe: Recipe,
    classes: ClassTable,
    labeled: PartSummary,
    val: PartSummary,
    faults: list[str],
    hints: list[str],
    warnings: list[str],
) -> None:
    absent = [name for name, pixels in zip(classes.names, labeled.class_pixels, strict=True) if pixels == 0]
    if absent:
        faults.append(
            f"no labelled pixel of {', '.join(absent)} in {labeled.images} labelled images: nothing teaches the "
            "network what they look like"
        )
        hints.append("Label images that show them, try another data.labeled_seed, or leave them out of data.classes.")
        if len(classes) == 2 and labeled.ignored_pixels and 255 not in recipe.data.value_map:
            hints.append("Masks of 0 and 255 mean two classes to some tools: data.value_map='{255: 1}' reads them so.")
    if val.images and not any(val.class_pixels) and not faults:
        faults.append("the validation masks hold nothing but ignored pixels: there is nothing to score a network on")
    elif val.images:
        unseen = [name for name, pixels in zip(classes.names, val.class_pixels, strict=True) if pixels == 0]
        if unseen:
            warnings.append(f"no validation pixel of {', '.join(unseen)}: there is nothing to score them on")
    else:
        warnings.append("there are no validation images: nothing says how good the network is")


def _suspicious_images(
    labeled: Sequence[_Seen], val: Sequence[_Seen], unlabeled: Sequence[_Seen], exif: str
) -> list[str]:
    every = {seen.image: seen for seen in [*labeled, *val, *unlabeled]}.values()
    headers = [(seen.image, seen.header) for seen in every if seen.header is not None]
    pairs = [(seen.image, seen.header, seen.mask_orientation) for seen in [*labeled, *val] if seen.header is not None]
    return [
        *suspicions.of_ranges((seen.image, seen.used) for seen in every if seen.used is not None),
        *suspicions.of_bands(headers),
        *(suspicions.of_orientations(pairs) if exif == "apply" else []),
    ]


def _only_ignored(labeled: Sequence[_Seen], val: Sequence[_Seen], classes: int) -> list[str]:
    warnings = []
    for name, part in (("labelled", labeled), ("validation", val)):
        empty = [seen for seen in part if seen.pixels is not None and not seen.pixels[:classes].any()]
        if empty:
            warnings.append(f"{_some(len(empty), name)} with nothing but ignored pixels, first {empty[0].image}")
    return warnings


def _leakage(labeled: Sequence[_Seen], val: Sequence[_Seen], unlabeled: Sequence[_Seen]) -> list[str]:
    """Validation images that training sees, by content, so that copies under other names are found as well."""
    warnings = []
    for part, consequence in (
        (labeled, "with its mask: the scores will be too good"),
        (unlabeled, "without its mask: the scores are not those of unseen images"),
    ):
        trained = {seen.digest: seen.image for seen in part if seen.digest is not None}
        shared = [(seen.image, trained[seen.digest]) for seen in val if seen.digest in trained]
        if shared:
            name, twin = shared[0]
            warnings.append(
                f"{_some(len(shared), 'validation')} also trained on, {consequence}; first {name}, the same as {twin}"
            )
    return warnings


def _unreadable(unreadable: Sequence[_Seen]) -> list[str]:
    if not unreadable:
        return []
    names = "".join(f"\n  {fault}" for seen in unreadable for fault in seen.faults)
    return [f"{_some(len(unreadable), 'unlabelled')} cannot be read; others take their place in training:{names}"]


def _not_looked_at(images: int, opened: int, unreadable: int, decoded: int) -> list[str]:
    if decoded + unreadable == images:
        return []
    rest = "of the others only the header was read"
    if opened < images:
        rest = f"of {opened - decoded} more only the header was read, and the others were not opened"
    return [f"{decoded} of {images} unlabelled images were decoded, evenly spaced; {rest}"]


def _small_images(recipe: Recipe, sets: DataSets, labeled: Sequence[_Seen], unlabeled: Sequence[_Seen]) -> list[str]:
    warnings = []
    crop, scale = recipe.train.crop, recipe.data.input_scale
    for name, part, images in (("labelled", labeled, len(labeled)), ("unlabelled", unlabeled, len(sets.unlabeled))):
        small = [seen for seen in part if seen.size is not None and min(seen.size) * scale < crop]
        if small:
            at_scale = "" if scale == 1.0 else f" at data.input_scale {scale:g}"
            of_opened = f" of {len(part)} opened" if len(part) < images else ""
            warnings.append(
                f"{_some(len(small), name)}{of_opened} smaller than train.crop {crop}{at_scale}, padded in training; "
                f"first {small[0].image}"
            )
    return warnings


def _few_images(recipe: Recipe, sets: DataSets) -> list[str]:
    warnings = []
    for name, count, key, batch in (
        ("labelled", len(sets.labeled), "train.batch_labeled", recipe.train.batch_labeled),
        ("unlabelled", len(sets.unlabeled), "train.batch_unlabeled", recipe.train.batch_unlabeled),
    ):
        if 0 < count < batch:
            warnings.append(f"{_some(count, name)} for {key} {batch}: the same image comes several times in a batch")
    return warnings


def _unused_masks(sets: DataSets) -> list[str]:
    if not sets.unused_masks:
        return []
    count = len(sets.unused_masks)
    subject = "1 mask belongs" if count == 1 else f"{count} masks belong"
    return [f"{subject} to no labelled or validation image, first {sets.unused_masks[0]}"]


def _some(count: int, kind: str) -> str:
    return f"1 {kind} image" if count == 1 else f"{count} {kind} images"
