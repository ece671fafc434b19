"""What to judge a runtime by: the validation images of a recipe, or two folders."""

from pathlib import Path

from protoseg_deploy.data.folders import Sample, find_samples
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data, LabeledFolder


def recipe_samples(data: Data) -> tuple[Sample, ...]:
    """The validation images and masks of a recipe; its other images need not be there.

    Raises:
        DataError: folders or masks are missing; every fault with its file or key.
    """
    return find_samples(Path(data.root), data.val, "data.val")


def folder_samples(images: Path, masks: Path, mask_template: str = "{stem}.png") -> tuple[Sample, ...]:
    """Images below one folder and masks below another, paired as in a recipe.

    Raises:
        DataError: as `recipe_samples`, in the words of the command line.
    """
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
