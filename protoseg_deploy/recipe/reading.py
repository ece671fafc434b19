"""How image and mask files become what a network sees: a small object that travels with the network.

Everything that reads a file needs one: training, evaluation, verification, calibration and prediction then read the
same file alike. A network file, an ONNX graph and a bundle hold the `ImageReading` they were trained with.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from protoseg_deploy.recipe.classes import ClassTable, class_table
from protoseg_deploy.recipe.data import Data
from protoseg_deploy.recipe.types import AlphaPolicy, Band, Color, ExifPolicy, ValueRange

_Byte = Annotated[int, Field(ge=0, le=255)]


class _Reading(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ImageReading(_Reading):
    """How an image file becomes uint8 RGB; the defaults are those of files that do not say."""

    bands: tuple[Band, ...] | None = None
    """One or three bands, counted from 1; None: what the file declares as its colours."""
    alpha: AlphaPolicy = "auto"
    value_range: ValueRange | None = None
    """Stored values that become 0 and 255; None: the full range of 8- or 16-bit files."""
    exif: ExifPolicy = "apply"


class MaskReading(_Reading):
    """How a mask file becomes class indices."""

    ignore_index: _Byte = 255
    value_map: dict[int, int] = {}
    """Values to replace, all at once; values not in it stay."""
    colors: tuple[Color, ...] = ()
    """Colours of the classes in index order, for masks that show colours."""
    ignore_colors: tuple[Color, ...] = ()
    """Colours that mean `ignore_index`."""
    palette_masks: Literal["indices", "colors"] = "indices"
    """What counts of masks with a palette."""
    exif: Literal["apply", "ignore"] = "apply"

    @classmethod
    def of_classes(cls, classes: ClassTable, ignore_index: int, image: ImageReading) -> "MaskReading":
        """For masks that go with a network, where no recipe says more."""
        return cls(ignore_index=ignore_index, colors=classes.colors, exif=image.exif)


def image_reading(data: Data) -> ImageReading:
    """How the images of a recipe are read.

    Raises:
        ValueError: the recipe names percentiles that have not been measured; see `data.value_range.measured`.
    """
    if isinstance(data.value_range, str):
        raise ValueError(f"data.value_range: {data.value_range} has not been measured")
    return ImageReading(bands=data.bands, alpha=data.alpha, value_range=data.value_range, exif=data.exif)


def mask_reading(data: Data) -> MaskReading:
    """How the masks of a recipe are read.

    Raises:
        UsageError: the JSON file of classes cannot be read.
    """
    return MaskReading(
        ignore_index=data.ignore_index,
        value_map=data.value_map,
        colors=class_table(data).colors,
        ignore_colors=tuple(data.ignore_colors),
        palette_masks=data.palette_masks or "indices",
        exif=data.exif,
    )
