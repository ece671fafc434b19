"""What deserves a warning in data that can be used."""

from collections.abc import Sequence

from protoseg_deploy.data import suspicions
from protoseg_deploy.data.folders import DataSets
from protoseg_deploy.data.looking import Seen
from protoseg_deploy.recipe import Recipe


def warnings_of(
    recipe: Recipe,
    sets: DataSets,
    classes: int,
    parts: tuple[Sequence[Seen], Sequence[Seen], Sequence[Seen]],
    tolerated: bool,
) -> list[str]:
    """The warnings of a check, about single images and about all of them together.

    Args:
        recipe: what the data are for.
        sets: the files.
        classes: how many values of masks are classes.
        parts: labelled, validation and unlabelled images, as they were seen.
        tolerated: whether unlabelled images that cannot be read are few enough to be passed over in training.
    """
    labeled, val, unlabeled = parts
    unreadable = [seen for seen in unlabeled if seen.faults]
    decoded = sum(seen.digest is not None for seen in unlabeled)
    return [
        *_missing_parts(recipe),
        *_unused_masks(sets),
        *_small_images(recipe, sets, labeled, unlabeled),
        *_few_images(recipe, sets),
        *_suspicious_images(recipe, labeled, val, unlabeled),
        *_only_ignored(labeled, val, classes),
        *_leakage(labeled, val, unlabeled),
        *(_unreadable(unreadable) if tolerated else []),
        *_not_looked_at(len(sets.unlabeled), len(unlabeled), len(unreadable), decoded),
    ]


def _missing_parts(recipe: Recipe) -> list[str]:
    if recipe.data.val.is_set:
        return []
    return ["no validation images (data.val), which `protoseg train` needs to choose the best network"]


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
