"""The ``data`` section: where images and masks lie and how they are read."""

import math
import re
from fractions import Fraction
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Strict, Tag, field_validator, model_validator

from protoseg_deploy.recipe.types import (
    MAY_CHANGE,
    AlphaPolicy,
    Band,
    Byte,
    ClassNames,
    Color,
    Count,
    ExifPolicy,
    Mark,
    PathText,
    Section,
    Seed,
    Share,
    ValueRange,
)
from protoseg_deploy.text import shown

_PERCENTILES = re.compile(r"percentile_(\d+(?:\.\d+)?)_(\d+(?:\.\d+)?)")


def percentiles_of(text: str) -> tuple[float, float]:
    """The two percentiles of ``percentile_2_98``.

    Raises:
        ValueError: it is not of that form, or they are no increasing numbers from 0 to 100.
    """
    match = _PERCENTILES.fullmatch(text)
    low, high = (float(match[1]), float(match[2])) if match else (0.0, 0.0)
    if not low < high <= 100:
        raise ValueError(f"a range is [LOW, HIGH] or percentiles such as percentile_2_98, got {text!r}")
    return low, high


def scale_ratio(input_scale: float) -> Fraction:
    """``data.input_scale`` as a ratio: a side becomes ``side * numerator // denominator``, at least 1.

    Training and the exported graph both compute sides this way, with integers alone.
    """
    return Fraction(input_scale).limit_denominator(10_000)


class ImageFolder(Section):
    """Images without masks."""

    images: PathText | None = None
    """Folder of images, searched recursively; relative to ``data.root``."""
    list: PathText | None = None
    """Text file with one image per line, or an image and its mask; replaces ``images``, or its paths are relative to
    it."""

    @property
    def is_set(self) -> bool:
        return self.images is not None or self.list is not None


class LabeledFolder(ImageFolder):
    """Images with masks."""

    masks: PathText | None = None
    """Folder of masks, which hold class indices or the ``colors`` of the classes."""
    mask_template: PathText = "{stem}.png"
    """Path of a mask below ``masks``, e.g. ``{stem}_mask.png`` or ``{parent}/{stem}.png``."""

    @model_validator(mode="after")
    def _masks_come_with_images(self) -> Self:
        if self.images is not None and self.masks is None and self.list is None:
            raise ValueError("`images` is given without `masks`")
        if "{stem}" not in self.mask_template:
            raise ValueError("`mask_template` must contain {stem}")
        return self


class Data(Section):
    """Where images and masks are, and what the masks mean."""

    root: Annotated[PathText, MAY_CHANGE] = "."
    """Folder to which the other data paths are relative; itself relative to the working directory."""
    labeled: LabeledFolder = LabeledFolder()
    """The training images with masks."""
    unlabeled: ImageFolder = ImageFolder()
    """The images without masks; the labelled ones may be among them."""
    val: LabeledFolder = LabeledFolder()
    """Images with masks for evaluation; they select the best network and verify an export. ``train`` requires them."""
    classes: Annotated[
        Annotated[ClassNames, Tag("names")] | Annotated[PathText, Field(min_length=1), Tag("file")],
        Discriminator(lambda value: "names" if isinstance(value, list) else "file"),
    ]
    """Class names in index order, or a JSON file with ``names`` and optionally ``colors``."""
    colors: list[Color] | None = None
    """One RGB colour per class; a distinct palette is generated when absent."""
    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    """Mask value that is excluded from training and evaluation."""
    value_map: dict[Annotated[Byte, Strict(False)], Byte] = Field(default={})  # keys are strings in JSON
    """Mask values to replace when a mask is read, e.g. ``{11: 255}`` or ``{2: 1}``."""
    ignore_colors: list[Color] = Field(default=[])
    """Further colours in colour masks; their pixels are ignored."""
    palette_masks: Literal["indices", "colors"] | None = None
    """How palette masks are read: by ``indices``, or by ``colors`` if the annotation tool renumbers the palette in
    every file. Absent: by indices, and ``check`` reports contradictory palettes as an error."""
    bands: Annotated[tuple[Band, ...], Strict(False)] | None = None
    """The bands of an image file that are red, green and blue, counted from 1, e.g. ``[4, 3, 2]``; or a single band,
    read as grey. Absent: the colours that the file declares."""
    alpha: AlphaPolicy = "auto"
    """Transparency: ``apply`` composites images on black; ``ignore`` keeps colours as stored; ``auto`` is ``apply``
    except for TIFFs, where a fourth band is often near infrared or a validity mask."""
    value_range: ValueRange | str | None = None
    """Values that map to black and white, for float images or 12-bit data in 16 bits: ``[LOW, HIGH]``, or percentiles
    over all images of the recipe, measured once at the start of a run: ``percentile_2_98``. Absent: 0 to 255 for 8-bit,
    0 to 65535 for 16-bit images."""
    value_range_from: Annotated[str | None, Mark(written_by="protoseg train")] = None
    """The percentiles from which ``value_range`` was measured."""
    exif: ExifPolicy = "apply"
    """``apply`` rotates images and masks according to their EXIF orientation; ``ignore`` reads them as stored, for
    masks that were drawn on the stored pixels."""
    labeled_count: Count | None = None
    """Use this many of the labelled images, drawn with ``labeled_seed``; absent: all."""
    labeled_share: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Like ``labeled_count``, as a share of the labelled images."""
    labeled_seed: Seed = 0
    """Seed of the labelled subset."""
    labeled_draw: Literal["covering", "random"] = "covering"
    """``covering`` draws a subset that shows every class, if there is one of this size; ``random`` ignores the
    masks."""
    missing_classes: Literal["error", "ignore"] | None = None
    """How a class without a labelled pixel is treated. Absent: an error with the prototype branch, which needs every
    class; otherwise a warning. With ``ignore``, the prototype head learns the class only from pseudo-labels."""
    input_scale: Annotated[float, Field(ge=0.001, le=4.0)] = 1.0
    """The network gets images at this scale; class maps are returned at the original size."""
    max_unreadable_share: Annotated[Share, MAY_CHANGE] = 0.01
    """Unreadable unlabelled images are replaced and reported; training stops if their share exceeds this."""
    cache_mib: Annotated[int, Field(ge=0, le=2**30), Mark("MiB", may_change=True)] = 512
    """Size of the cache of decoded images in each data-loader worker and in the training process; 0: no cache. Images
    must not change on disk during training."""

    @field_validator("bands")
    @classmethod
    def _one_or_three_bands(cls, bands: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if bands is not None and len(bands) not in (1, 3):
            raise ValueError(f"give one band or three, counted from 1, got {list(bands)}")
        return bands

    @field_validator("value_range", mode="before")
    @classmethod
    def _one_kind_of_range(cls, value: Any) -> Any:
        if value is None or isinstance(value, str) or (isinstance(value, list | tuple) and len(value) == 2):
            return value
        raise ValueError(f"a range is [LOW, HIGH] or percentiles such as percentile_2_98, got {shown(value)}")

    @field_validator("value_range")
    @classmethod
    def _values_are_a_range(cls, value: tuple[float, float] | str | None) -> tuple[float, float] | str | None:
        if isinstance(value, str):
            percentiles_of(value)
        elif value is not None and not (all(map(math.isfinite, value)) and value[0] < value[1]):
            raise ValueError(f"a range is [LOW, HIGH], two finite numbers, the smaller one first; got {list(value)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.labeled_count is not None and self.labeled_share is not None:
            raise ValueError("give `labeled_count` or `labeled_share`, not both")
        if isinstance(self.classes, list):
            if len(set(self.classes)) != len(self.classes):
                raise ValueError("`classes` holds the same name twice")
            if self.colors is not None and len(self.colors) != len(self.classes):
                alone = ", here that of the foreground; its background is black" if len(self.classes) == 1 else ""
                raise ValueError(
                    f"{len(self.colors)} `colors` for {len(self.classes)} `classes`: give one for each{alone}"
                )
        return self
