"""Class maps as pictures."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.recipe import Color

UInt8Array = NDArray[np.uint8]

IGNORE_COLORS: tuple[Color, Color] = ((150, 150, 150), (205, 205, 205))
"""Stripes of whatever is no class; plain grey would pass for a class of that colour."""


def colorize(class_map: NDArray[np.integer], colors: Sequence[Color]) -> UInt8Array:
    """Class indices to colours; indices without a colour (the ignore index) become grey diagonal stripes.

    Args:
        class_map: ``[H,W]`` class indices.
        colors: RGB 0..255 in class order.

    Returns:
        ``[H,W,3]`` uint8 RGB.
    """
    no_class = _no_class(class_map, len(colors))
    table = np.array([*colors, *IGNORE_COLORS], dtype=np.uint8)
    if no_class.any():
        height, width = class_map.shape
        stripe = max(2, min(height, width) // 40)
        rows, columns = np.ogrid[:height, :width]
        class_map = np.where(no_class, len(colors) + (rows + columns) // stripe % 2, class_map)
    picture: UInt8Array = table[class_map]
    return picture


def overlay(
    image: UInt8Array, class_map: NDArray[np.integer], colors: Sequence[Color], alpha: float = 0.5
) -> UInt8Array:
    """An image with its classes painted over; pixels without a class stay as they are.

    Args:
        image: ``[H,W,3]`` uint8 RGB.
        class_map: ``[H,W]`` class indices.
        colors: RGB 0..255 in class order.
        alpha: share of the class colour, 0 (image alone) to 1 (colour alone).

    Returns:
        ``[H,W,3]`` uint8 RGB.
    """
    if image.shape[:2] != class_map.shape:
        raise ValueError(f"image is {image.shape[:2]}, class map is {class_map.shape}")
    painted = colorize(class_map, colors)
    # 8.8 fixed point: huge images would take four times the memory as float32
    weight = round(alpha * 256)
    blend = ((image.astype(np.uint16) * (256 - weight) + painted.astype(np.uint16) * weight + 128) >> 8).astype(
        np.uint8
    )
    no_class = _no_class(class_map, len(colors))
    blend[no_class] = image[no_class]
    return blend


def _no_class(class_map: NDArray[np.integer], classes: int) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = (class_map < 0) | (class_map >= classes)
    return outside
