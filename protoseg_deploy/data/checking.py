"""Looks into every file before a run depends on it; all errors at once, each with its file.

Labelled and validation pairs are decoded completely. Unlabelled images are decoded too, up to a limit; beyond it an
evenly spaced part is decoded and the headers of the others are read, and these have a limit as well. Masks are compared
with each other in the same pass.
"""

from collections.abc import Mapping, Sequence

from protoseg_deploy.data import comparing
from protoseg_deploy.data.absent_classes import check_classes
from protoseg_deploy.data.check_warnings import warnings_of
from protoseg_deploy.data.finding import unread_files
from protoseg_deploy.data.folders import DataSets, searched_folders
from protoseg_deploy.data.looking import Progress, Seen, look_at_all, masks_in
from protoseg_deploy.data.pool import LARGE_POOL
from protoseg_deploy.data.report import DataReport, Findings, PartSummary
from protoseg_deploy.data.value_range import with_measured_range
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ClassTable, Recipe, class_table


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
    found = Findings(list(faults))
    recipe = _with_range(recipe, sets, found)
    labeled, val, unlabeled = look_at_all(recipe, sets, len(classes), (decode_limit, open_limit), progress)
    unreadable = [seen for seen in unlabeled if seen.faults]
    tolerated = len(unreadable) <= recipe.data.max_unreadable_share * len(unlabeled)
    _collect_faults([*labeled, *val, *(() if tolerated else unreadable)], found)
    if not sets.labeled and not faults:
        found.faults.append("there is no labelled image")
    if not tolerated:
        found.hints.append(
            "Replace or remove unlabelled images that cannot be read; training skips them only while their share "
            f"is within data.max_unreadable_share={recipe.data.max_unreadable_share:g}."
        )
    found.hints += comparing.strange_values(recipe.data, len(classes), [*masks_in(labeled), *masks_in(val)])
    _compare_masks(recipe, classes, labeled, val, found)
    labeled_summary, val_summary = _summary(labeled, len(classes)), _summary(val, len(classes))
    if sets.labeled:
        check_classes(recipe, classes, sets, labeled, val, found)
    unread, unread_lines = _unread(recipe, count_unread or _is_small(sets))
    found.warnings += unread_lines
    found.warnings += warnings_of(recipe, sets, len(classes), (labeled, val, unlabeled), tolerated)
    return DataReport(
        classes=classes,
        labeled=labeled_summary,
        labeled_pool=sets.labeled_pool,
        unlabeled=PartSummary.of(len(sets.unlabeled), _sizes(unlabeled)),
        unlabeled_opened=len(unlabeled),
        unlabeled_decoded=sum(seen.digest is not None for seen in unlabeled),
        val=val_summary,
        unread=unread,
        warnings=tuple(found.warnings),
        faults=tuple(found.faults),
        hints=tuple(dict.fromkeys(found.hints)),
    )


def _with_range(recipe: Recipe, sets: DataSets, found: Findings) -> Recipe:
    """With the measured range of values, or without any where it cannot be measured."""
    try:
        return with_measured_range(recipe, sets)
    except DataError as error:
        found.faults += [error.summary, *error.faults]
        return recipe.model_copy(update={"data": recipe.data.model_copy(update={"value_range": None})})


def _collect_faults(complained: Sequence[Seen], found: Findings) -> None:
    found.faults += [fault for seen in complained for fault in seen.faults]
    found.hints += [hint for seen in complained for hint in seen.hints]


def _is_small(sets: DataSets) -> bool:
    return len(sets.unlabeled) <= LARGE_POOL


def _sizes(part: Sequence[Seen]) -> list[tuple[int, int]]:
    return [seen.size for seen in part if seen.size is not None]


def _summary(part: Sequence[Seen], classes: int) -> PartSummary:
    masks = masks_in(part)
    return PartSummary.of(len(part), _sizes(part), [mask.pixels for mask in masks] if masks else None, classes)


def _compare_masks(
    recipe: Recipe, classes: ClassTable, labeled: Sequence[Seen], val: Sequence[Seen], found: Findings
) -> None:
    data, masks = recipe.data, [*masks_in(labeled), *masks_in(val)]
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
