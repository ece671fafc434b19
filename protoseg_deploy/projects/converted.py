"""Masks out of a file of annotations, for a project."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from protoseg_deploy.annotations.converting import Choices, convert
from protoseg_deploy.data.lists import ListReader
from protoseg_deploy.errors import DataError
from protoseg_deploy.projects.pairing import Pairs, absolute, find_pairs


def pairs_of_annotations(
    images: Sequence[Path], annotations: Path, out: Path, progress: Callable[[int, int], object] | None
) -> tuple[Pairs, Path, list[str]]:
    """Convert annotations and pair the masks with images.

    Args:
        images: folders or files, annotated or not.
        annotations: file of a labelling tool.
        out: for masks, classes and report; see `convert`.
        progress: called while images are converted.

    Returns:
        The pairs, the file of class names, and what deserves a look.

    Raises:
        ProtosegError: as `convert`; or no image of the annotations is there.
    """
    folder = images[0] if len(images) == 1 and images[0].is_dir() else None
    found = convert(annotations, out, Choices(images=folder), progress)
    faults: list[str] = []
    reader = ListReader(out.absolute(), str((out / "labeled.txt").absolute()), str(annotations), faults)
    masks = {absolute(image): absolute(mask) for image, mask in reader.pairs(None, None) if mask is not None}
    if faults or not masks:
        raise DataError(f"{annotations}: none of its images is there", faults, hint=f"See {out / 'report.json'}.")
    pairs = find_pairs(images, out / "masks")
    every = tuple(sorted({*pairs.images, *masks}))
    bad = found.records.get("bad", 0)
    remarks = [f"{bad} records of {annotations} could not be used: {out / 'report.json'} lists them"] if bad else []
    how = f"{annotations.name} ({found.format}, {len(masks)})"
    return replace(pairs, images=every, masks=masks, how=how, unused_masks=()), out / "classes.json", remarks
