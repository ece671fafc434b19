"""Which files belong to a recipe: images paired with their masks, and the labelled subset.

Two ways to say it: folders, searched recursively and paired by `mask_template`; or list files as the public splits are
written. Nothing is decoded here; `protoseg_deploy.data.checking` looks inside the files.
"""

import os
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from protoseg_deploy.data.drawing import draw_labeled
from protoseg_deploy.data.finding import find_images, no_images, scan_images
from protoseg_deploy.data.list_text import as_column
from protoseg_deploy.data.lists import ListReader
from protoseg_deploy.data.pairing import MaskTemplate
from protoseg_deploy.data.paths import expanded, folder_of, is_folder, is_same_file, name_below, trouble_with
from protoseg_deploy.data.pool import NO_IMAGES, ImagePool, cached_pool
from protoseg_deploy.data.sample import Sample as Sample
from protoseg_deploy.errors import DataError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.recipe import Data, ImageFolder, LabeledFolder


@dataclass(frozen=True)
class DataSets:
    """The files of a recipe, each part sorted by path; a part that was not asked for is empty."""

    labeled: tuple[Sample, ...]
    """The drawn subset, with masks."""
    unlabeled: ImagePool
    val: tuple[Sample, ...]
    labeled_pool: int
    """Labelled samples there were to draw from."""
    unused_masks: tuple[Path, ...] = ()
    """Masks that fit a `mask_template` but belong to no image."""


@dataclass
class _Search:
    """What the parts of one search share: where to start and what went wrong so far."""

    root: Path
    faults: list[str] = field(default_factory=list)


def find_data(
    data: Data, *, need_unlabeled: bool, need_val: bool, drawn: Path | None = None, faults: list[str] | None = None
) -> DataSets:
    """Find, pair and draw the files of a recipe.

    Args:
        data: the section of the recipe; relative paths start at ``data.root``.
        need_unlabeled: also find the unlabelled images; they are left out otherwise.
        need_val: also find the validation images; they are left out otherwise.
        drawn: a list of the labelled subset as `write_list` writes it, which was drawn before; it is drawn now when
            absent.
        faults: where given, faults are added here and nothing is raised but for a missing root: what is sound is found
            all the same.

    Raises:
        DataError: folders or lists are missing, images lack their masks, two images share one, or the labelled subset
            is larger than its pool. Every error is listed, with its file or key.
    """
    root = expanded(data.root).absolute()
    if not is_folder(root):
        raise DataError(
            f"data.root: no such folder: {root}",
            hint="A relative data.root starts at the working directory; set it with data.root=FOLDER.",
        )
    search = _Search(root)
    if faults is not None:
        search.faults = faults
    pool = _labeled_part(search, data.labeled, "data.labeled")
    val = _labeled_part(search, data.val, "data.val") if need_val else []
    masks = {sample.mask for sample in [*pool, *val] if sample.mask is not None}
    unlabeled = _unlabeled_part(search, data, masks) if need_unlabeled else NO_IMAGES
    unused = {
        *_unused_masks(search, data.labeled, masks),
        *(_unused_masks(search, data.val, masks) if need_val else ()),
    }
    if drawn is not None:
        labeled = _drawn_before(search, drawn, pool)
    else:
        labeled = draw_labeled(data, pool, search.faults) if pool else []
    if faults is not None:
        labeled = labeled or pool  # fewer than were to be drawn: looked at all the same
    elif search.faults:
        count = "1 fault" if len(search.faults) == 1 else f"{len(search.faults)} faults"
        raise DataError(f"the data of the recipe cannot be used: {count}", search.faults)
    return DataSets(
        labeled=tuple(labeled),
        unlabeled=unlabeled,
        val=tuple(val),
        labeled_pool=len(pool),
        unused_masks=tuple(sorted(unused)),
    )


def find_samples(root: Path, part: LabeledFolder, key: str) -> tuple[Sample, ...]:
    """Find and pair one part alone, e.g. validation images where there are no others.

    Args:
        root: where relative paths start.
        part: images and masks.
        key: the recipe key of the part, for messages.

    Raises:
        DataError: as `find_data`.
    """
    search = _Search(root.expanduser().absolute())
    samples = _labeled_part(search, part, key)
    if search.faults:
        count = "1 fault" if len(search.faults) == 1 else f"{len(search.faults)} faults"
        raise DataError(f"images and masks cannot be used: {count}", search.faults)
    return tuple(samples)


def write_list(path: Path, samples: Sequence[Sample], root: Path) -> None:
    """Write a list file that ``data.labeled.list`` reads back to the same samples.

    Args:
        path: the file to write; a recipe has to name it by its absolute path, or relative to ``data.root``.
        samples: what to list. Samples without a mask get a line with the image alone.
        root: the ``data.root`` of the recipe; files below it are written relative to it, others absolute.

    Any name reads back as it is, bytes that are no text included.

    Raises:
        WriteError: the file cannot be written.
    """
    base = root.expanduser().absolute()
    lines = [f"# {len(samples)} samples: image, tab, mask; relative paths start at data.root"]
    for sample in samples:
        files = [sample.image] if sample.mask is None else [sample.image, sample.mask]
        lines.append("\t".join(as_column(name_below(file.absolute(), base)) for file in files))
    write_atomically(path, os.fsencode("\n".join(lines) + "\n"))


def _labeled_part(search: _Search, part: LabeledFolder, key: str) -> list[Sample]:
    """All samples of `data.labeled` or `data.val`, sorted; faults go to the search."""
    if not part.is_set:
        search.faults.append(f"{key} names no images: set {key}.images and {key}.masks, or {key}.list")
        return []
    before = len(search.faults)
    images = folder_of(search.root, part.images, f"{key}.images", search.faults)
    masks = folder_of(search.root, part.masks, f"{key}.masks", search.faults)
    template = MaskTemplate.parse(part.mask_template, f"{key}.mask_template", search.faults)
    if len(search.faults) > before or template is None:
        return []
    if part.list is not None:
        reader = ListReader(search.root, part.list, f"{key}.list", search.faults)
        samples = [
            Sample(image, mask if mask is not None else template.mask_of(image, images or search.root, masks))
            for image, mask in reader.pairs(images, masks)
        ]
    else:
        assert images is not None
        assert masks is not None, "the recipe refuses images without masks"
        try:
            files = find_images(images, leave_out=[masks], key=f"{key}.images", faults=search.faults)
        except DataError as error:
            search.faults.append(error.message)
            return []
        samples = [Sample(image, template.mask_of(image, images, masks)) for image in files]
        # Images and masks in one folder: what is the mask of another image is no image.
        partners = {sample.mask for sample in samples if sample.mask != sample.image}
        samples = [sample for sample in samples if sample.image not in partners]
    samples = _sound_pairs(samples, key, template, search.faults)
    return sorted(samples, key=lambda sample: name_below(sample.image, search.root))


def _drawn_before(search: _Search, drawn: Path, pool: Sequence[Sample]) -> list[Sample]:
    """The samples of a list, in the order of the pool."""
    reader = ListReader(search.root, str(drawn.absolute()), "the labelled subset", search.faults)
    position = {sample.image: number for number, sample in enumerate(pool)}
    samples = [Sample(image, mask) for image, mask in reader.pairs(None, None)]
    return sorted(samples, key=lambda sample: position.get(sample.image, len(pool)))


def _sound_pairs(samples: Sequence[Sample], key: str, template: MaskTemplate, faults: list[str]) -> list[Sample]:
    """The samples that can be used; what is wrong with the others is added to `faults`."""
    first_with: dict[Path, Path] = {}
    seen: set[Path] = set()
    hinted = False
    sound = []
    for sample in samples:
        image, mask, before = sample.image, sample.mask, len(faults)
        if image in seen:
            faults.append(f"{image}: listed twice in {key}.list")
            continue
        seen.add(image)
        if mask is None:
            faults.append(f"{image}: no mask: set {key}.masks, or name a mask on every line of {key}.list")
        elif mask == image:
            faults.append(f"{image}: image and mask would be the same file; change {key}.mask_template or {key}.masks")
        elif (other := first_with.get(mask)) is not None and not is_same_file(image, other):
            mend = (
                "rename or remove one" if image.parent == other.parent else "a template with {parent} tells them apart"
            )
            faults.append(f"{image}: shares the mask {mask} with {other}; {mend}")
        elif reason := trouble_with(mask):
            hint = "" if hinted else template.near(image, mask)
            hinted = True
            why = "" if reason == "no such file" else f": {reason}"
            faults.append(f"{image}: no mask at {mask}{why}{hint}")
        if mask is not None:
            first_with.setdefault(mask, image)
        if len(faults) == before:
            sound.append(sample)
    return sound


def searched_folders(data: Data, *, unlabeled: bool = True) -> list[tuple[Path, list[Path]]]:
    """Folders that a recipe has searched, each with those below it that were left out; lists search none.

    Args:
        data: the section of the recipe.
        unlabeled: with those of unlabelled images.
    """
    root = expanded(data.root).absolute()
    masks = [root / expanded(name) for name in (data.labeled.masks, data.val.masks) if name is not None]
    parts = [data.labeled, data.val, *([data.unlabeled] if unlabeled else [])]
    images = [root / expanded(part.images) for part in parts if part.images is not None and part.list is None]
    found = {folder: [place for place in masks if place != folder] for folder in images}
    return [(folder, others) for folder, others in found.items() if is_folder(folder)]


def _unlabeled_part(search: _Search, data: Data, masks: Set[Path]) -> ImagePool:
    """What is among the `masks` is no image."""
    part: ImageFolder = data.unlabeled
    if not part.is_set:
        search.faults.append("data.unlabeled names no images: set data.unlabeled.images to any folder of images")
        return NO_IMAGES
    before = len(search.faults)
    images = folder_of(search.root, part.images, "data.unlabeled.images", search.faults)
    if len(search.faults) > before:
        return NO_IMAGES
    if part.list is not None:
        # Public lists name masks for these too; they are not looked at.
        reader = ListReader(search.root, part.list, "data.unlabeled.list", search.faults)
        refused = {name_below(mask, search.root) for mask in masks}

        def read(sources: dict[str, int]) -> list[tuple[str, Sequence[str]]]:
            names = sorted(reader.image_names(images, sources) - refused)
            return [("", names)] if len(search.faults) == before else []  # nothing is kept of a list with faults

        return cached_pool(search.root, ["list", part.list, str(images), *sorted(refused)], read)
    assert images is not None
    folders = [search.root / expanded(name) for name in (data.labeled.masks, data.val.masks) if name is not None]
    refused = {name_below(mask, images) for mask in masks if mask.is_relative_to(images)}

    def find(sources: dict[str, int]) -> Iterator[tuple[str, Sequence[str]]]:
        for below, names in scan_images(images, folders, sources):
            yield below, [name for name in names if below + name not in refused] if refused else names

    try:
        pool = cached_pool(images, ["folder", *map(str, folders), *sorted(refused)], find)
    except DataError as error:
        search.faults.append(error.message)
        return NO_IMAGES
    if not pool:
        search.faults.append(no_images(images, "data.unlabeled.images"))
    return pool


def _unused_masks(search: _Search, part: LabeledFolder, used: Set[Path]) -> list[Path]:
    """Only where folders are paired: a list names what it wants and may leave masks over."""
    if part.list is not None or part.masks is None or part.images is None:
        return []
    masks, images = search.root / expanded(part.masks), search.root / expanded(part.images)
    template = MaskTemplate.parse(part.mask_template, "", [])
    if template is None or not is_folder(masks) or masks == images or images.is_relative_to(masks):
        return []
    try:
        files = find_images(masks, leave_out=[], key="", faults=[])
    except DataError:  # nobody reads the folder
        return []
    return [file for file in files if file not in used and template.fits(file, masks)]
