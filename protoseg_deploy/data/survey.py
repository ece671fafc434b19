"""What masks hold, before a recipe says what it means."""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from protoseg_deploy.data.masks import stored_values
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Color

Progress = Callable[[int, int], None]
_MOST_VALUES = 4096
"""A file with more is a picture, no mask."""


@dataclass(frozen=True)
class MaskContent:
    """The values of one mask."""

    pixels: Mapping[int, int]
    """How often each occurs: an index, or a colour as ``0xRRGGBB``."""
    is_color: bool = False
    palette: Mapping[int, Color] = field(default_factory=dict)
    """Of a palette mask: the colour of each index that occurs."""
    size: tuple[int, int] = (0, 0)
    """Height and width."""
    fault: str = ""
    """Why it is no mask; empty: it is one."""


def survey_masks(paths: Sequence[Path], progress: Progress | None = None) -> list[MaskContent]:
    """Read masks, in threads, and count their values."""
    found = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for number, content in enumerate(pool.map(_content, paths), start=1):
            found.append(content)
            if progress is not None:
                progress(number, len(paths))
    return found


def color_of(code: int) -> Color:
    """``(R, G, B)`` of ``0xRRGGBB``."""
    return code >> 16, code >> 8 & 255, code & 255


def total_pixels(contents: Sequence[MaskContent]) -> Counter[int]:
    """Pixels of each value in all masks together."""
    total: Counter[int] = Counter()
    for content in contents:
        total.update(content.pixels)
    return total


def _content(path: Path) -> MaskContent:
    try:
        values, palette = stored_values(path)
    except DataError as error:
        return MaskContent({}, fault=error.message)
    size = (values.shape[0], values.shape[1])
    is_color = values.ndim == 3 and not (values == values[..., :1]).all()
    if is_color:
        red, green, blue = (values[..., channel].astype(np.int64) for channel in range(3))
        values = red << 16 | green << 8 | blue
    elif values.ndim == 3:
        values = values[..., 0]
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        return MaskContent({}, size=size, fault=f"{path}: a mask with values that are no whole numbers")
    numbers, counts = np.unique(values, return_counts=True)
    if len(numbers) > _MOST_VALUES:
        return MaskContent({}, size=size, fault=f"{path}: {len(numbers)} different values: a picture, no mask")
    pixels = dict(zip(numbers.astype(np.int64).tolist(), counts.tolist(), strict=True))
    shown = {index: palette[index] for index in pixels if index in palette} if palette else {}
    return MaskContent(pixels, is_color, shown, size)
