"""Which masks belong to which images, found by their names alone."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.data.finding import find_images, looked_for
from protoseg_deploy.data.paths import is_folder
from protoseg_deploy.errors import DataError, UsageError

MASK_FOLDERS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "ground_truth",
    "segmentation", "segmentations", "seg", "segmentationclass", "annot", "labelstr", "gtfine",
)  # fmt: skip
"""Names of folders of masks, in lower case; ``trainannot`` and the like are such folders, too."""
MASK_ENDINGS = (
    "_mask", "-mask", ".mask", "_masks", "_label", "-label", "_labels", "_gt", "_seg", "_segmentation", "_annotation",
    "_L", "_labelids", "_gtfine_labelids", "_manual1", "_groundtruth",
)  # fmt: skip
"""How the stem of a mask goes on after that of its image, where both lie in one folder."""
_IMAGE_ENDINGS = re.compile(r"(_leftimg8bit|_image|_img|_rgb|_0000)$", re.IGNORECASE)


@dataclass(frozen=True)
class Pairs:
    """Images with their masks, and images without."""

    images: tuple[Path, ...]
    """All, sorted."""
    masks: dict[Path, Path]
    """By image."""
    how: str
    """What their names have in common, for people: ``masks/{stem}_mask.png``."""
    unused_masks: tuple[Path, ...]


def find_pairs(folders: Sequence[Path], masks: Path | None) -> Pairs:
    """Find images and the masks that belong to them.

    Masks are looked for below `masks`; without it in folders named like folders of masks, among the images and beside
    them, and then among the images by their endings (``photo_mask.png``). A mask belongs to the image with its stem, to
    which the same beginning or ending may be added in all masks; of several candidates the one whose folder
    corresponds.

    Args:
        folders: of images, searched recursively; or single images.
        masks: folder of masks.

    Raises:
        UsageError: a folder is missing, or there is no image.
        DataError: several masks fit one image.
    """
    found = sorted({absolute(path) for folder in folders for path in _images_of(folder, masks)})
    candidates: Iterable[Path]
    if masks is not None:
        if not is_folder(masks):
            raise UsageError(f"--masks: no such folder: {masks}")
        candidates = [absolute(path) for path in find_images(masks, leave_out=[], key="--masks", faults=[])]
        if not candidates:
            raise UsageError(f"--masks: no masks in {masks} ({looked_for(masks)})")
    else:
        candidates = _likely_masks(found, folders)
    refused = set(candidates)
    images = [path for path in found if path not in refused]
    paired, how = _matched(images, sorted(refused))
    if masks is None and not refused:
        how = "no masks found"
    if not images:
        raise UsageError("there is no image", f"Looked in {', '.join(map(str, folders))}.")
    used = set(paired.values())
    return Pairs(tuple(images), paired, how, tuple(sorted(mask for mask in refused if mask not in used)))


def absolute(path: Path) -> Path:
    """Without ``..``; links stay as they are."""
    return Path(os.path.normpath(path.absolute()))


def _images_of(folder: Path, masks: Path | None) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not is_folder(folder):
        raise UsageError(f"no such folder: {folder}")
    leave_out = [masks] if masks is not None and masks.absolute() != folder.absolute() else []
    return find_images(folder, leave_out=leave_out, key="IMAGES", faults=[])


def _is_mask_folder(name: str) -> bool:
    return name.lower() in MASK_FOLDERS or bool(
        re.fullmatch(r"(train|val|valid|test)[-_]?(annot|masks?|labels?)", name.lower())
    )


def _likely_masks(found: Sequence[Path], folders: Sequence[Path]) -> set[Path]:
    """Files in folders that are named so, below or beside the images; else those that are named after another file."""
    likely = {path for path in found if any(_is_mask_folder(part) for part in path.parent.parts[-3:])}
    for folder in folders:
        base = absolute(folder)
        for beside in sorted(base.parent.iterdir()) if is_folder(base) else []:
            if beside != base and _is_mask_folder(beside.name) and is_folder(beside):
                likely |= {absolute(path) for path in find_images(beside, leave_out=[], key="", faults=[])}
    if likely:
        return likely
    stems = {(path.parent, path.stem) for path in found}
    endings = sorted(MASK_ENDINGS, key=len, reverse=True)
    for path in found:
        ending = next((each for each in endings if path.stem.lower().endswith(each.lower())), None)
        if ending is not None and (path.parent, path.stem[: -len(ending)]) in stems:
            likely.add(path)
    return likely


def _matched(images: Sequence[Path], masks: Sequence[Path]) -> tuple[dict[Path, Path], str]:
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for mask in masks:
        by_stem[mask.stem].append(mask)
    added = _additions(images, by_stem)
    paired: dict[Path, Path] = {}
    kinds: Counter[str] = Counter()
    doubtful: list[str] = []
    for image in images:
        for before, after in added:
            stems = dict.fromkeys((image.stem, _IMAGE_ENDINGS.sub("", image.stem)))
            fitting = [mask for stem in stems for mask in by_stem.get(f"{before}{stem}{after}", ()) if mask != image]
            if not fitting:
                continue
            nearest = _nearest(image, fitting)
            if len(nearest) > 1:
                doubtful.append(f"{image}: {nearest[0]} and {nearest[1]} could both be its mask")
            paired[image] = nearest[0]
            kinds[f"{nearest[0].parent.name}/{before}{{stem}}{after}{nearest[0].suffix}"] += 1
            break
    if doubtful:
        raise DataError(f"images with several masks: {len(doubtful)}", doubtful, hint="Name one folder with --masks.")
    shared = [mask for mask, count in Counter(paired.values()).items() if count > 1]
    if shared:
        twins = [str(image) for image, mask in paired.items() if mask == shared[0]]
        raise DataError(f"the mask {shared[0]} fits several images: {', '.join(twins[:3])}", [], hint="Rename them.")
    return paired, ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common(3))


def _additions(images: Sequence[Path], by_stem: dict[str, list[Path]]) -> list[tuple[str, str]]:
    """What is put before and after the stem of an image to get that of its mask, the most frequent first."""
    stems = {stem for image in images for stem in (image.stem, _IMAGE_ENDINGS.sub("", image.stem))}
    votes: Counter[tuple[str, str]] = Counter({("", ""): sum(stem in by_stem for stem in stems)})
    for mask in by_stem:
        if mask in stems:
            continue
        longest = max((mask[a:b] for a, b in _parts(mask) if mask[a:b] in stems), key=len, default="")
        if longest:
            before, _, after = mask.partition(longest)
            votes[before, after] += 1
    return [addition for addition, count in votes.most_common(8) if count]


def _parts(stem: str) -> list[tuple[int, int]]:
    """Where a stem may begin and end within a longer one: at marks, and where letters and digits meet."""
    cuts = [
        0,
        *(match.start() for match in re.finditer(r"[^0-9A-Za-z]|(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])", stem)),
    ]
    starts = sorted({*cuts, *(cut + 1 for cut in cuts)})
    ends = sorted({*cuts, len(stem)})
    return [(start, end) for start in starts for end in ends if start < end]


def _nearest(image: Path, masks: list[Path]) -> list[Path]:
    """Those with the most folders, counted from the end, that are called as those of the image."""
    folders = [part.lower() for part in reversed(image.parent.parts)]

    def score(mask: Path) -> int:
        return len(set(folders) & {part.lower() for part in mask.parent.parts})

    best = max(map(score, masks))
    return [mask for mask in masks if score(mask) == best]
