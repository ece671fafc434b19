"""Pictures of a page as data: made small enough that all of them together keep to a size."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8Array = NDArray[np.uint8]

_SIDES = (480, 400, 320, 240, 180, 128)
"""Longest sides to try, in pixels."""
_QUALITIES = (75, 68, 60)


@dataclass(frozen=True)
class Encoded:
    """A picture inside a page."""

    source: str
    """``data:image/webp;base64,…``."""
    width: int
    height: int


@dataclass(frozen=True)
class _Picture:
    pixels: UInt8Array
    flat: bool
    fixed: bool


class Album:
    """Pictures by number; `encode` makes them fit.

    Args:
        most_bytes: of all together, as they stand in the page.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._pictures: list[_Picture] = []

    def photo(self, pixels: UInt8Array, *, fixed: bool = False) -> int:
        """Add an image ``[H,W,3]`` uint8 RGB; `fixed` ones are small already and keep their size."""
        return self._add(pixels, flat=False, fixed=fixed)

    def map(self, pixels: UInt8Array) -> int:
        """Add a picture of few colours, ``[H,W,3]`` uint8 RGB, whose edges stay sharp."""
        return self._add(pixels, flat=True, fixed=False)

    def _add(self, pixels: UInt8Array, *, flat: bool, fixed: bool) -> int:
        # Gigapixels are not kept until the end.
        kept = pixels if fixed else np.asarray(_smaller(Image.fromarray(pixels), _SIDES[0], flat))
        self._pictures.append(_Picture(kept, flat, fixed))
        return len(self._pictures) - 1

    def encode(self) -> tuple[Encoded, ...]:
        """All pictures in the largest size at which they fit; in the smallest where they never do."""
        found: tuple[Encoded, ...] = ()
        for side in _SIDES:
            for quality in _QUALITIES:
                found = tuple(_encoded(picture, side, quality) for picture in self._pictures)
                if sum(len(picture.source) for picture in found) <= self.most_bytes:
                    return found
        return found


def _encoded(picture: _Picture, side: int, quality: int) -> Encoded:
    image = Image.fromarray(picture.pixels)
    if not picture.fixed:
        image = _smaller(image, side, picture.flat)
    file = io.BytesIO()
    how: dict[str, object] = {"lossless": True, "quality": 80} if picture.flat else {"quality": quality, "method": 4}
    image.save(file, format="WEBP", **how)
    return Encoded("data:image/webp;base64," + base64.b64encode(file.getvalue()).decode(), *image.size)


def _smaller(image: Image.Image, side: int, flat: bool) -> Image.Image:
    longest = max(image.size)
    if longest <= side:
        return image
    size = (max(1, round(image.width * side / longest)), max(1, round(image.height * side / longest)))
    return image.resize(size, Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS, reducing_gap=3.0)
