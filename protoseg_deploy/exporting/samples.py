"""The images a bundle is verified on."""

from collections.abc import Sequence
from pathlib import Path

from protoseg_deploy.data import IMAGE_SUFFIXES, Sample, find_data
from protoseg_deploy.data.folders import find_samples
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.recipe import LabeledFolder, load_recipe

DEFAULT_IMAGES = 50


def recipe_samples(run: Path, count: int = DEFAULT_IMAGES) -> list[Sample]:
    """Validation images of the recipe of a run, at most `count` of them, evenly spaced.

    Raises:
        DataError: the run holds no recipe, or the recipe's validation images are not where it says.
        UsageError: the recipe in the run cannot be read.
    """
    recipe = (run if run.is_dir() else run.parent) / "recipe.yaml"
    if not recipe.is_file():
        raise DataError(f"{recipe} is not there, so nothing says which the validation images are")
    data = load_recipe(recipe).data
    if not data.val.is_set:
        raise DataError(f"{recipe} names no validation images (data.val)")
    return evenly_spaced(find_data(data, need_unlabeled=False, need_val=True).val, count)


def folder_samples(
    images: Path, masks: Path | None, count: int | None = None, mask_template: str = "{stem}.png"
) -> list[Sample]:
    """Images of a folder, with their masks if there is a folder of them.

    Raises:
        UsageError: a folder does not exist or holds no images.
        DataError: images without masks.
    """
    for folder in (images, masks):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"no such folder: {folder}")
    if masks is not None:
        part = LabeledFolder(images=str(images.absolute()), masks=str(masks.absolute()), mask_template=mask_template)
        samples = list(find_samples(Path.cwd(), part, "images"))
    else:
        files = (path for path in images.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
        samples = [Sample(path, None) for path in sorted(files)]
    if not samples:
        raise UsageError(f"{images}: a folder without images (looked for {', '.join(IMAGE_SUFFIXES)})")
    return samples if count is None else evenly_spaced(samples, count)


def evenly_spaced(samples: Sequence[Sample], count: int) -> list[Sample]:
    """At most `count` of them, in order, the first and the last included where there is room for two."""
    if count >= len(samples):
        return list(samples)
    if count == 1:
        return [samples[len(samples) // 2]]
    return [samples[round(number * (len(samples) - 1) / (count - 1))] for number in range(count)]
