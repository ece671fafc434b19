"""Looks into every file before a run depends on it; all errors at once, each with its file.

Labelled and validation pairs are decoded completely. Unlabelled images are decoded too, up to a limit; beyond it an
evenly spaced part is decoded and the headers of the others are read, and these have a limit as well. Masks are compared
with each other in the same pass.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from protoseg_deploy.data import comparing, suspicions
from protoseg_deploy.data.folders import DataSets, searched_folders
from protoseg_deploy.data.looking import Seen, SeenMask, look_at_image, look_at_pair
from protoseg_deploy.data.pairing import unread_files
from protoseg_deploy.data.pool import LARGE_POOL
from protoseg_deploy.data.report import DataReport, PartSummary
from protoseg_deploy.data.sample import Sample
from protoseg_deploy.data.value_maps import likely_changes, renumbering, value_map_line
from protoseg_deploy.data.value_range import with_measured_range
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ClassTable, Recipe, class_table, image_reading, mask_reading

Progress = Callable[[int, int], None]
"""Called with the number of files looked at and the number there are."""

_MOST_THREADS = 8


@dataclass
class _Found:
    """What one check has found out so far."""

    faults: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_before_training(recipe: Recipe, sets: DataSets) -> tuple[str, ...]:
    """The warnings of a check that takes seconds, however many unlabelled images there are.

    Raises:
        DataError: as `check_data`.
        UsageError: as `check_data`.
    """
    return check_data(recipe, sets, decode_limit=200, open_limit=2_000, count_unread=_is_small(sets)).warnings


def check_data(
    recipe: Recipe,
    sets: DataSets,
    *,
    decode_limit: int = 2_000,
    open_limit: int = 20_000,
    count_unread: bool = True,
    progress: Progress | None = None,
) -> DataReport:
    """Read the files of a recipe and report what they hold.

    Args:
        recipe: classes, ignore index, value map; the method decides whether a class without a label is an error.
        sets: the files, from `find_data`.
        decode_limit: at most this many unlabelled images are decoded, evenly spaced.
        open_limit: about this many, evenly spaced, are opened at all; of those not decoded the header is read.
        count_unread: search the folders of unlabelled images once more, for files that are not read.
        progress: told how far the check is.

    Returns:
        Counts, sizes, class shares and warnings.

    Raises:
        DataError: files are unreadable (unlabelled ones: more of those opened than ``data.max_unreadable_share``), an
            image and its mask differ in size, a mask holds values that are no class, palettes contradict each other,
            or a class has no labelled pixel although the method needs one. Every error is listed.
        UsageError: the JSON file of classes cannot be read.
    """
    report = examine_data(
        recipe,
        sets,
        decode_limit=decode_limit,
        open_limit=open_limit,
        count_unread=count_unread,
        progress=progress,
    )
    if report.faults:
        raise report.error()
    return report


def examine_data(
    recipe: Recipe,
    sets: DataSets,
    *,
    decode_limit: int = 2_000,
    open_limit: int = 20_000,
    count_unread: bool = True,
    progress: Progress | None = None,
    faults: Sequence[str] = (),
) -> DataReport:
    """As `check_data`, but errors are part of the report, together with warnings and the statistics of the other files.

    Args:
        faults: what `find_data` found; they come first.

    Raises:
        UsageError: the JSON file of classes cannot be read.
    """
    classes = class_table(recipe.data)
    found = _Found(list(faults))
    try:
        recipe = with_measured_range(recipe, sets)
    except DataError as error:
        found.faults += [error.summary, *error.faults]
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"value_range": None})})
    labeled, val, unlabeled = _look_at_all(recipe, sets, len(classes), (decode_limit, open_limit), progress)
    unreadable = [seen for seen in unlabeled if seen.faults]
    tolerated = len(unreadable) <= recipe.data.max_unreadable_share * len(unlabeled)
    complained = [*labeled, *val, *(() if tolerated else unreadable)]
    found.faults += [fault for seen in complained for fault in seen.faults]
    found.hints += [hint for seen in complained for hint in seen.hints]
    if not sets.labeled and not faults:
        found.faults.append("there is no labelled image")
    if not tolerated:
        found.hints.append(
            "Replace or remove unlabelled images that cannot be read; training skips them only while their share "
            f"is within data.max_unreadable_share={recipe.data.max_unreadable_share:g}."
        )
    masks = [seen.mask for seen in [*labeled, *val] if seen.mask is not None]
    found.hints += comparing.strange_values(recipe.data, len(classes), masks)
    _compare_masks(recipe, classes, labeled, val, found)
    labeled_summary, val_summary = _summary(labeled, len(classes)), _summary(val, len(classes))
    if sets.labeled:
        _check_classes(recipe, classes, sets, labeled, val, found)
    unread, unread_lines = _unread(recipe, count_unread or _is_small(sets))
    found.warnings += [
        *unread_lines,
        *_unused_masks(sets),
        *_small_images(recipe, sets, labeled, unlabeled),
        *_few_images(recipe, sets),
        *_suspicious_images(recipe, labeled, val, unlabeled),
        *_only_ignored(labeled, val, len(classes)),
        *_leakage(labeled, val, unlabeled),
    ]
    decoded = sum(seen.digest is not None for seen in unlabeled)
    if tolerated:
        found.warnings += _unreadable(unreadable)
    found.warnings += _not_looked_at(len(sets.unlabeled), len(unlabeled), len(unreadable), decoded)
    return DataReport(
        classes=classes,
        labeled=labeled_summary,
        labeled_pool=sets.labeled_pool,
        unlabeled=PartSummary.of(len(sets.unlabeled), _sizes(unlabeled)),
        unlabeled_opened=len(unlabeled),
        unlabeled_decoded=decoded,
        val=val_summary,
        unread=unread,
        warnings=tuple(found.warnings),
        faults=tuple(found.faults),
        hints=tuple(dict.fromkeys(found.hints)),
    )


def _look_at_all(
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


def _is_small(sets: DataSets) -> bool:
    return len(sets.unlabeled) <= LARGE_POOL


def _evenly_spaced(count: int, limit: int) -> set[int]:
    return set(range(count)) if count <= limit else set(np.linspace(0, count - 1, limit).astype(int).tolist())


def _sizes(part: Sequence[Seen]) -> list[tuple[int, int]]:
    return [seen.size for seen in part if seen.size is not None]


def _masks(part: Sequence[Seen]) -> list[SeenMask]:
    return [seen.mask for seen in part if seen.mask is not None]


def _summary(part: Sequence[Seen], classes: int) -> PartSummary:
    masks = _masks(part)
    return PartSummary.of(len(part), _sizes(part), [mask.pixels for mask in masks] if masks else None, classes)


def _compare_masks(
    recipe: Recipe, classes: ClassTable, labeled: Sequence[Seen], val: Sequence[Seen], found: _Found
) -> None:
    data, masks = recipe.data, [*_masks(labeled), *_masks(val)]
    if data.palette_masks is None:
        faults, doubts = comparing.palettes_that_differ(masks)
        found.faults += faults
        found.warnings += doubts
        if faults or doubts:
            mend = (
                "data.palette_masks: colors reads masks by the colours of their palettes, listed in data.colors in the "
                f"order of data.classes; masks show {comparing.palette_colors(masks)}. data.palette_masks: indices "
                "says that their indices are right."
            )
            (found.hints if faults else found.warnings).append(mend)
    found.warnings += [
        warning
        for warning in (
            comparing.ignored_foreground(data, classes, masks),
            comparing.several_kinds(masks),
            comparing.values_of_one_part(data, classes, labeled, val),
        )
        if warning is not None
    ]


def _check_classes(
    recipe: Recipe, classes: ClassTable, sets: DataSets, labeled: Sequence[Seen], val: Sequence[Seen], found: _Found
) -> None:
    shown = {value for mask in _masks(labeled) for value in mask.pixels}
    absent = [index for index in range(len(classes)) if index not in shown]
    unread = len(labeled) - len(_masks(labeled))
    if absent and unread < len(labeled):
        names = ", ".join(classes.names[index] for index in absent)
        of_read = f" ({unread} {'mask' if unread == 1 else 'masks'} could not be read)" if unread else ""
        text = (
            f"no labelled pixel of {names} in {len(labeled)} labelled images{of_read}: the network cannot "
            "learn what they look like"
        )
        mends = _mends_of_absent(recipe, classes, sets, absent, shown)
        if _is_fault(recipe, len(classes) - len(absent)):
            found.faults.append(text)
            found.hints += mends
        else:
            found.warnings.append(f"{text}. {' '.join(mends)}" if recipe.data.missing_classes is None else text)
    shown_val = {value for mask in _masks(val) for value in mask.pixels if value < len(classes)}
    if val and not shown_val and len(_masks(val)) == len(val):
        found.faults.append(
            "the validation masks hold nothing but ignored pixels: there is nothing to evaluate a network on"
        )
    elif val:
        unseen = [name for index, name in enumerate(classes.names) if index not in shown_val]
        if unseen:
            found.warnings.append(f"no validation pixel of {', '.join(unseen)}: they cannot be evaluated")
    elif not sets.val and not found.faults:
        found.warnings.append("there are no validation images: the network cannot be evaluated")


def _is_fault(recipe: Recipe, shown: int) -> bool:
    """Whether classes may lack labelled pixels, with so many that do not."""
    if recipe.data.missing_classes is not None:
        return recipe.data.missing_classes == "error"
    return recipe.method.has_prototypes or shown < 2


def _mends_of_absent(
    recipe: Recipe, classes: ClassTable, sets: DataSets, absent: Sequence[int], shown: set[int]
) -> list[str]:
    data = recipe.data
    mends = []
    likely = likely_changes(shown, len(classes), data.ignore_index)
    if likely is not None:
        line = value_map_line(data.value_map, likely)
        mends.append(f"If the values of masks are the classes in their order: {line}.")
    elif data.ignore_index in shown:
        line = value_map_line(data.value_map, {data.ignore_index: absent[0]})
        others = " (or the index of another class)" if len(absent) > 1 else ""
        mends.append(f"If {data.ignore_index}, which is ignored, means {classes.names[absent[0]]}: {line}{others}.")
    if len(sets.labeled) < sets.labeled_pool and data.labeled_draw == "random":
        mends.append("data.labeled_draw: covering draws images that show every class, where there are any.")
    if len(classes) - len(absent) >= 2 and not classes.binary:
        moved = renumbering(absent, len(classes))
        line = f" and set {value_map_line(data.value_map, moved)}" if moved else ""
        mends.append(f"Label images that show them, or leave them out of data.classes{line}.")
    if recipe.method.has_prototypes:
        mends.append("data.missing_classes: ignore trains without prototypes of these classes.")
    return mends


def _unread(recipe: Recipe, count_unlabeled: bool) -> tuple[dict[str, Mapping[str, int]], list[str]]:
    """What lies in the folders of a recipe and is not read: by folder and ending, and a line for each folder."""
    counts: dict[str, Mapping[str, int]] = {}
    lines = []
    for folder, leave_out in searched_folders(recipe.data, unlabeled=count_unlabeled):
        try:
            unread = unread_files(folder, leave_out)
        except DataError as error:
            lines.append(error.message)
            continue
        if unread.text:
            lines.append(". ".join([f"{folder}: {unread.text}", *unread.hints]))
        if unread.counts:
            counts[str(folder)] = unread.counts
    return counts, lines


def _suspicious_images(
    recipe: Recipe, labeled: Sequence[Seen], val: Sequence[Seen], unlabeled: Sequence[Seen]
) -> list[str]:
    doubtful = recipe.data.exif == "apply" and "exif" not in recipe.data.model_fields_set
    every = {seen.image: seen for seen in [*labeled, *val, *unlabeled]}.values()
    pairs = [
        (seen.image, seen.header, seen.mask.orientation)
        for seen in [*labeled, *val]
        if seen.header is not None and seen.mask is not None
    ]
    return [
        *suspicions.of_ranges(
            ((seen.image, seen.used) for seen in every if seen.used is not None), recipe.data.value_range is not None
        ),
        *suspicions.of_bands((seen.image, seen.header) for seen in every if seen.header is not None),
        *(suspicions.of_orientations(pairs) if doubtful else []),
    ]


def _only_ignored(labeled: Sequence[Seen], val: Sequence[Seen], classes: int) -> list[str]:
    warnings = []
    for name, part in (("labelled", labeled), ("validation", val)):
        empty = [seen for seen in part if seen.mask is not None and min(seen.mask.pixels, default=classes) >= classes]
        if empty:
            warnings.append(f"{_some(len(empty), name)} with nothing but ignored pixels, first {empty[0].image}")
    return warnings


def _leakage(labeled: Sequence[Seen], val: Sequence[Seen], unlabeled: Sequence[Seen]) -> list[str]:
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


def _unreadable(unreadable: Sequence[Seen]) -> list[str]:
    if not unreadable:
        return []
    names = "".join(f"\n  {fault}" for seen in unreadable for fault in seen.faults)
    return [f"{_some(len(unreadable), 'unlabelled')} cannot be read; training replaces them with others:{names}"]


def _not_looked_at(images: int, opened: int, unreadable: int, decoded: int) -> list[str]:
    if decoded + unreadable == images:
        return []
    rest = "of the others only the header was read"
    if opened < images:
        rest = f"of {opened - decoded} more only the header was read, and the others were not opened"
    return [f"{decoded} of {images} unlabelled images were decoded, evenly spaced; {rest}"]


def _small_images(recipe: Recipe, sets: DataSets, labeled: Sequence[Seen], unlabeled: Sequence[Seen]) -> list[str]:
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
