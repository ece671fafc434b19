"""Class maps as pictures."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.recipe import Color

UInt8Array = NDArray[np.uint8]

IGNORE_COLORS: tuple[Color, Color] = ((150, 150, 150), (205, 205, 205))
"""Stripes of whatever is no class; plain grey would pass for a class of that colour."""

_PIXELS_AT_ONCE = 1 << 16
"""So many are painted at a time."""


def colorize(class_map: NDArray[np.integer], colors: Sequence[Color]) -> UInt8Array:
    """Class indices to colours; indices without a colour (the ignore index) become grey diagonal stripes.

    Args:
        class_map: ``[H,W]`` class indices.
        colors: RGB 0..255 in class order.

    Returns:
        ``[H,W,3]`` uint8 RGB.
    """
    table = np.array([*colors, *IGNORE_COLORS], dtype=np.uint8)
    height, width = class_map.shape
    stripe = max(2, min(height, width) // 40)
    picture = np.empty((height, width, 3), dtype=np.uint8)
    for band in _bands(height, width):
        indices = class_map[band]
        no_class = _no_class(indices, len(colors))
        if no_class.any():
            rows, columns = np.ogrid[band.start : band.start + len(indices), :width]
            indices = np.where(no_class, len(colors) + (rows + columns) // stripe % 2, indices)
        picture[band] = np.take(table, indices, axis=0)
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
    # 8.8 fixed point
    weight = round(alpha * 256)
    table = np.array(colors, dtype=np.uint16).reshape(-1, 3) * np.uint16(weight) + np.uint16(128)
    blend = np.empty_like(image)
    for band in _bands(*class_map.shape):
        pixels, indices = image[band], class_map[band]
        no_class = _no_class(indices, len(colors))
        has_none = no_class.any()
        mixed = np.take(table, np.where(no_class, 0, indices) if has_none else indices, axis=0)
        mixed += pixels * np.uint16(256 - weight)
        mixed >>= 8
        blend[band] = mixed
        if has_none:
            blend[band][no_class] = pixels[no_class]
    return blend


def _bands(height: int, width: int) -> Iterator[slice]:
    """A few rows at a time: what is computed on the way stays in the cache, whatever the size of the image."""
    rows = max(1, _PIXELS_AT_ONCE // max(1, width))
    return (slice(top, top + rows) for top in range(0, height, rows))


def _no_class(class_map: NDArray[np.integer], classes: int) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = (class_map < 0) | (class_map >= classes)
    return outside
