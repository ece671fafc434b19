"""Weak views.

The weak view decides the geometry (resize, crop, flip), a strong view is the weak one with photometric augmentation
(see `photometric`). Whatever lies outside the image is *ignored*, never a class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from protoseg_deploy.recipe import Train, scale_ratio

_PADDING_RGB = (124, 116, 104)
"""About the mean of ImageNet: padding is close to zero after normalisation."""
_OUTSIDE = 255


@dataclass(frozen=True)
class View:
    """One training crop."""

    image: Tensor
    """``[3,S,S]`` uint8."""
    mask: Tensor
    """``[S,S]`` uint8 class indices, the ignore index outside; of an unlabelled image 0 inside it and 255 outside."""


def weak_view(
    image: Tensor,
    mask: Tensor | None,
    spec: Train,
    ignore_index: int,
    class_index: int | None = None,
) -> View:
    """Random resize, crop and flip, drawn from torch's global generator.

    Only the part of the image that ends up in the crop is resized. Where a class is asked for, the crop is moved so
    that it holds a random pixel of it; downsampling may still lose a class of a few pixels.

    Args:
        image: ``[3,H,W]`` uint8 RGB `at_input_scale`; fastest as it was decoded, with the channels last in memory.
        mask: ``[H,W]`` uint8, or None for an unlabelled image.
        spec: crop side, scale range, flip.
        ignore_index: value of the mask outside a labelled image; it may be 0.
        class_index: a class of the mask, or None for a crop anywhere.
    """
    scale, where_y, where_x, coin = torch.rand(4).tolist()
    scale = spec.scale[0] + scale * (spec.scale[1] - spec.scale[0])
    row, column = (None, None) if mask is None or class_index is None else _random_pixel(mask, class_index)
    top, height, out_height = _window(image.shape[-2], spec.crop, scale, where_y, row)
    left, width, out_width = _window(image.shape[-1], spec.crop, scale, where_x, column)
    box = (top, left, height, width)
    size = [out_height, out_width]
    image = TF.resized_crop_image(image, *box, size, antialias=True)
    outside = _OUTSIDE if mask is None else ignore_index
    mask = image.new_zeros(size) if mask is None else resize_mask(TF.crop_mask(mask, *box), size)
    if spec.flip and coin < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    return View(_pad_image(image, spec.crop), _pad_mask(mask, spec.crop, outside))


def view_around_class(image: Tensor, mask: Tensor, class_index: int, crop: int, ignore_index: int) -> View:
    """An unresized crop that holds a random pixel of a class, drawn from torch's global generator.

    Image and mask are those of `weak_view`; where the mask does not show the class, it is a crop of the middle.
    """
    row, column = _random_pixel(mask, class_index)
    if row is None or column is None:
        row, column = mask.shape[0] // 2, mask.shape[1] // 2
    top = max(0, min(row - crop // 2, mask.shape[0] - crop))
    left = max(0, min(column - crop // 2, mask.shape[1] - crop))
    image, mask = image[:, top : top + crop, left : left + crop], mask[top : top + crop, left : left + crop]
    return View(_pad_image(image, crop), _pad_mask(mask, crop, ignore_index))


def at_input_scale(image: Tensor, input_scale: float) -> Tensor:
    """An image ``[3,H,W]`` as the network sees it: resized without antialiasing, as inside an exported graph."""
    if input_scale == 1.0:
        return image
    ratio = scale_ratio(input_scale)
    size = [max(1, side * ratio.numerator // ratio.denominator) for side in image.shape[-2:]]
    resized: Tensor = TF.resize_image(image, size, InterpolationMode.BILINEAR, antialias=False)
    return resized


def resize_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """Of a mask ``[H,W]`` the pixel nearest by its centre, as images are resized; torchvision goes by corners."""
    resized: Tensor = TF.resize_image(mask[None], list(size), InterpolationMode.NEAREST_EXACT)[0]
    return resized


def _random_pixel(mask: Tensor, class_index: int) -> tuple[int, int] | tuple[None, None]:
    """Row and column of a pixel of a class, if there is one."""
    places = np.flatnonzero(mask.numpy() == class_index)  # of a mask with few such pixels six times as fast as torch's
    if not len(places):
        return None, None
    row, column = divmod(int(places[torch.randint(len(places), ())]), mask.shape[1])
    return row, column


def _window(side: int, crop: int, scale: float, where: float, within: int | None = None) -> tuple[int, int, int]:
    """Start and length of the source window along one side, and the length it is resized to.

    Args:
        side: of the image.
        crop: length of a window at scale 1.
        scale: of the resize.
        where: in [0, 1), which of the windows there are.
        within: a place that the window has to hold; None for any window.
    """
    length = min(side, max(1, round(crop / scale)))
    first, last = 0, side - length
    if within is not None:
        first, last = max(first, within - length + 1), min(last, within)
    start = first + int(where * (last - first + 1))
    resized = crop if length < side else min(crop, max(1, round(side * scale)))
    return start, length, resized


def _pad_image(image: Tensor, crop: int) -> Tensor:
    if image.shape[-2:] == (crop, crop):
        return image.contiguous()
    padded = torch.tensor(_PADDING_RGB, dtype=torch.uint8).view(3, 1, 1).repeat(1, crop, crop)
    padded[:, : image.shape[-2], : image.shape[-1]] = image
    return padded


def _pad_mask(mask: Tensor, crop: int, outside: int) -> Tensor:
    if mask.shape == (crop, crop):
        return mask
    padded = mask.new_full((crop, crop), outside)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return padded
