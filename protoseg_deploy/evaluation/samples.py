"""What to evaluate on: the validation images of a recipe or of a run, or folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from protoseg_deploy.data import Sample
from protoseg_deploy.data.finding import find_images, looked_for
from protoseg_deploy.data.folders import find_data, find_samples
from protoseg_deploy.data.paths import is_folder
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.recipe import Data, LabeledFolder, MaskReading, Recipe
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.runtimes.base import RuntimeInfo

Item = TypeVar("Item")

VERIFICATION_IMAGES = 50
"""How many images of a run an export is verified on."""


def recipe_samples(data: Data) -> tuple[Sample, ...]:
    """The validation images and masks of a recipe; its other images need not be there.

    Raises:
        DataError: folders or masks are missing; every error with its file or key.
    """
    return find_samples(Path(data.root), data.val, "data.val")


def run_samples(run: Path, count: int = VERIFICATION_IMAGES) -> tuple[Sample, ...]:
    """Validation images of the recipe of a run, at most `count` of them, evenly spaced.

    Args:
        run: a run folder, or a network file inside one.
        count: at most so many.

    Raises:
        DataError: the run holds no recipe, or the recipe's validation images are not where it says.
        UsageError: the recipe in the run cannot be read.
    """
    data = _recipe_of(run, "validation images").data
    if not data.val.is_set:
        raise DataError(f"the recipe of {run} names no validation images (data.val)")
    return evenly_spaced(recipe_samples(data), count)


def run_unlabeled(run: Path) -> Sequence[Path]:
    """Unlabelled images of the recipe of a run; its labelled ones where it names none.

    Args:
        run: a run folder, or a network file inside one.

    Raises:
        DataError: the run holds no recipe, or its images are not where it says.
        UsageError: the recipe in the run cannot be read.
    """
    data = _recipe_of(run, "images").data
    sets = find_data(data, need_unlabeled=data.unlabeled.is_set, need_val=False)
    return sets.unlabeled or tuple(sample.image for sample in sets.labeled)


def folder_samples(
    images: Path, masks: Path | None = None, mask_template: str = "{stem}.png", count: int | None = None
) -> tuple[Sample, ...]:
    """Images below one folder, paired with the masks below another as in a recipe, or without masks.

    Raises:
        UsageError: there is no such folder, or no image in it.
        DataError: images without masks, with messages of the command line.
    """
    if masks is not None:
        samples = _paired(images, masks, mask_template)
    else:
        if not is_folder(images):
            raise UsageError(f"no such folder: {images}")
        samples = tuple(Sample(path, None) for path in find_images(images, leave_out=[], key="", faults=[]))
        if not samples:
            raise UsageError(f"{images}: a folder without images ({looked_for(images)})")
    return samples if count is None else evenly_spaced(samples, count)


def masks_of(info: RuntimeInfo) -> MaskReading:
    """How the masks of a folder are read: as the bundle or the run says, else by the classes of the runtime.

    Raises:
        UsageError: the recipe in the run cannot be read.
    """
    if info.masks is not None:
        return info.masks
    reading = MaskReading.of_classes(info.classes, info.ignore_index, info.reading)
    if not isinstance(info.path, Path) or info.kind != "pytorch":
        return reading
    run = RunFolder.around(info.path)
    if not run.exists():
        return reading
    data = run.recipe().data
    return reading.model_copy(
        update={
            "value_map": data.value_map,
            "ignore_colors": tuple(data.ignore_colors),
            "palette_masks": data.palette_masks or "indices",
        }
    )


def evenly_spaced(samples: Sequence[Item], count: int) -> tuple[Item, ...]:
    """At most `count` of them, in order, the first and the last included where there is room for two."""
    if count >= len(samples):
        return tuple(samples)
    if count == 1:
        return (samples[len(samples) // 2],)
    return tuple(samples[round(number * (len(samples) - 1) / (count - 1))] for number in range(count))


def _recipe_of(run: Path, wanted: str) -> Recipe:
    folder = RunFolder.around(run)
    if not folder.exists():
        raise DataError(f"{folder.recipe_path} does not exist, so the {wanted} are unknown")
    return folder.recipe()


def _paired(images: Path, masks: Path, mask_template: str) -> tuple[Sample, ...]:
    part = LabeledFolder.model_construct(
        images=str(images.absolute()), masks=str(masks.absolute()), mask_template=mask_template, list=None
    )
    try:
        return find_samples(Path(), part, "option")
    except DataError as error:
        options = {"option.images": "--images", "option.masks": "--masks", "option.mask_template": "--mask-template"}
        faults = list(error.faults)
        for key, option in options.items():
            faults = [fault.replace(key, option) for fault in faults]
        raise DataError("images and masks cannot be used:", faults) from None
