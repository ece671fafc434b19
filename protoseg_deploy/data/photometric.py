"""Strong views: photometric augmentation of a weak view, colours and focus.

Colour jitter (0.5, 0.5, 0.5, 0.25) with probability 0.8, greyscale 0.2, Gaussian blur with σ of 0.1 to 2 pixels 0.5, as
in UniMatch (Yang et al., CVPR 2023). What makes it cheap:

- Brightness, contrast, saturation and greyscale are linear in RGB. So is a rotation of the hue that keeps the luma.
  Together they are one 3×3 matrix and one number that is added to all channels; values are clamped once, at the end,
  not after each change.
- The hue of a saturated colour turns by the angle that a shift of the HSV hue turns it by. The latter keeps HSV's value
  (the largest channel), this one keeps the luma: a blue that turns red becomes dark, not three times as bright.
- A Gaussian is separable, and along one side it is a band matrix: blocks of it are multiplied with blocks of pixels.
  That is several times as fast as a convolution of three channels on a CPU, and exact.

All random numbers are drawn on the CPU; the pixels are computed where they are, without a host synchronisation.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_LUMA = np.array([0.299, 0.587, 0.114])
_ONES = np.ones(3)
_CHROMA = np.eye(3) - np.outer(_ONES, _LUMA)
"""Takes the luma from a colour, along the axis of greys."""
_QUARTER_TURN = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
"""Turns a colour around the axis of greys, from red towards green."""

_RADIUS = 6
"""Pixels of the blur to each side: three standard deviations of the widest."""
_BLOCK = 32
"""Rows or columns blurred at once. Larger blocks multiply more zeros, smaller ones keep matrix products busy less."""
_SHARPEST = 0.01
"""A standard deviation at which every pixel keeps its value; zero cannot be divided by."""


def draw_augmentation() -> Tensor:
    """A random `augmentation`, drawn from torch's global CPU generator."""
    jitter, brightness, contrast, saturation, hue, grey, blur, sigma = torch.rand(8).tolist()
    changes = {}
    if jitter < 0.8:
        changes = {"brightness": 0.5 + brightness, "contrast": 0.5 + contrast, "saturation": 0.5 + saturation}
        changes["hue"] = (hue - 0.5) / 2
    if grey < 0.2:
        changes["saturation"] = 0.0
    if blur < 0.5:
        changes["sigma"] = 0.1 + 1.9 * sigma
    return augmentation(**changes)


def augmentation(
    brightness: float = 1.0, contrast: float = 1.0, saturation: float = 1.0, hue: float = 0.0, sigma: float = 0.0
) -> Tensor:
    """How one strong view differs from its weak view, ``[13]`` float32.

    Nine numbers are the colour matrix, row by row; three are the weights of the image's mean colour in what is added to
    each channel; the last is σ of the blur in pixels, 0 for none.

    Args:
        brightness: factor of all channels.
        contrast: factor of the distance from the image's mean luma.
        saturation: factor of the distance from the pixel's luma; 0 is greyscale.
        hue: in turns, positive from red towards green.
        sigma: standard deviation of the blur, in pixels; at most 2.
    """
    angle = 2 * math.pi * hue
    turned = _CHROMA @ (math.cos(angle) * np.eye(3) + math.sin(angle) * _QUARTER_TURN)
    matrix = brightness * contrast * (np.outer(_ONES, _LUMA) + saturation * turned)
    mean_weights = brightness * (1 - contrast) * _LUMA
    return torch.from_numpy(np.concatenate([matrix.ravel(), mean_weights, [sigma]])).float()


def augment(images: Tensor, augmentations: Tensor) -> Tensor:
    """Strong views of weak views, on their device.

    Args:
        images: ``[B,3,S,S]`` uint8 RGB.
        augmentations: ``[B,13]`` float32 on the same device.

    Returns:
        ``[B,3,S,S]`` uint8.
    """
    if images.device.type != "cpu":
        return blurred(recoloured(images, augmentations), augmentations[:, 12])
    # Image by image, what is worked on stays in the cache, and half of the images are not blurred.
    views = torch.empty_like(images)
    for index in range(len(images)):
        image, change = images[index : index + 1], augmentations[index : index + 1]
        colours = recoloured(image, change)
        views[index : index + 1] = blurred(colours, change[:, 12]) if change[0, 12] > 0 else colours
    return views


def recoloured(images: Tensor, augmentations: Tensor) -> Tensor:
    """``[B,3,H,W]`` float32 from 0.5 to 255.5: a conversion to uint8 that cuts off then rounds, blurred or not."""
    colours = images.float().flatten(2)
    mean_weights = augmentations[:, 9:12, None]
    added = (colours.mean(dim=2, keepdim=True) * mean_weights).sum(dim=1, keepdim=True) + 0.5
    matrix = augmentations[:, :9].reshape(-1, 3, 3)
    return torch.baddbmm(added, matrix, colours).clamp_(0.5, 255.5).view(images.shape)


def blurred(colours: Tensor, sigma: Tensor) -> Tensor:
    """``[B,3,H,W]`` uint8: a Gaussian of ``[B]`` deviations over float colours, which are reflected at the borders."""
    batch, channels, height, width = colours.shape
    bands = _gaussian_bands(sigma)[:, None].expand(-1, channels, -1, -1)
    padded = F.pad(colours, (_RADIUS,) * 4, mode="reflect")
    lines = padded.new_empty(batch, channels, height, width + 2 * _RADIUS)
    for start in range(0, height, _BLOCK):
        count = min(_BLOCK, height - start)
        window = padded[:, :, start : start + count + 2 * _RADIUS]
        lines[:, :, start : start + count] = bands[:, :, :count, : count + 2 * _RADIUS] @ window
    blurred = torch.empty_like(colours, dtype=torch.uint8)
    for start in range(0, width, _BLOCK):
        count = min(_BLOCK, width - start)
        window = lines[..., start : start + count + 2 * _RADIUS]
        blurred[..., start : start + count] = window @ bands[:, :, :count, : count + 2 * _RADIUS].mT
    return blurred


def _gaussian_bands(sigma: Tensor) -> Tensor:
    """``[B,n,n+2r]`` float32: row `i` holds the weights of the pixels `i` to ``i+2r`` around pixel ``i+r``."""
    pixels = torch.arange(_BLOCK + 2 * _RADIUS, device=sigma.device)
    distance = pixels - pixels[:_BLOCK, None] - _RADIUS
    weights = torch.exp(-distance.square() / (2 * sigma.clamp(min=_SHARPEST).square()).view(-1, 1, 1))
    weights = torch.where(distance.abs() <= _RADIUS, weights, 0.0)
    return weights / weights.sum(dim=2, keepdim=True)
