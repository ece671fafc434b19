"""Mask files to class indices: what is read, how, and what is refused by name.

Single-channel masks hold indices: grey and palettes of up to 8 bits (a palette's indices count, its colours do not),
integers of up to 64 bits and whole floats as far as their values fit into 0..255. Masks of three channels show the
colours of the classes, exactly, or are grey saved as RGB. Formats and compressions that change values are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data.declared import as_stored, stored_maximum
from protoseg_deploy.data.formats import MASK_FORMATS, decoding
from protoseg_deploy.data.images import SIXTEEN_BIT
from protoseg_deploy.data.sources import Source, UInt8Array, open_source
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Color, MaskReading

_CHANNELS = ("LA", "La", "RGB", "RGBA", "RGBX")
_NAMED = 8
_ALMOST = 8
"""Levels in each channel by which a colour may miss that of a class to be named with it."""
_PNG_HINT = "Save masks as single-channel PNG."
_COLOR_HINT = (
    "Masks of three channels show the colours of the classes: list them in data.colors, in the order of data.classes, "
    "and those to ignore in data.ignore_colors; or save class indices (0, 1, 2, …) as a single-channel PNG."
)


@dataclass(frozen=True)
class Mask:
    """A mask and what its file says beside it."""

    indices: UInt8Array
    """``[H,W]`` class indices, after the value map; writable."""
    palette: Mapping[int, Color] | None
    """Of a palette mask, the colour of every stored index that occurs, before the value map; None of others."""
    orientation: int
    """EXIF orientation, 1 (upright) to 8, whether it is applied or not."""
    channels: int = 1
    """1: of indices; 3: of colours, or of grey saved as such."""


def read_mask(path: Path, reading: MaskReading) -> UInt8Array:
    """A mask file as ``[H,W]`` uint8 class indices; writable.

    Raises:
        DataError: as `open_mask`.
    """
    return open_mask(path, reading).indices


def open_mask(path: Path, reading: MaskReading) -> Mask:
    """A mask file as class indices, with its palette and its orientation.

    Args:
        path: the file.
        reading: colours of the classes, values to replace, orientation: of the recipe, or of the network.

    Raises:
        DataError: the file is missing, damaged, no mask, or holds values that do not fit into 0..255 or colours that
            are no class; the message names it.
    """
    with open_source(path, "mask", exact=True) as source:
        _refuse_lossy(source)
        try:
            values, palette = _stored(source, by_color=reading.palette_masks == "colors")
            indices, channels = _indices(values, reading, path), 1 if values.ndim == 2 else 3
            if palette is not None:
                palette = {index: palette[index] for index in np.flatnonzero(np.bincount(indices.ravel())).tolist()}
            indices = source.turned(indices, reading.exif)
        except MemoryError:
            raise source.no_memory() from None
        orientation = source.orientation
    if reading.value_map:
        indices = _replace_values(indices, reading.value_map)
    return Mask(indices, palette, orientation, channels)


def stored_values(path: Path, *, by_color: bool = False) -> tuple[NDArray[Any], Mapping[int, Color] | None]:
    """What a mask file holds before anybody says what it means, as stored: EXIF turns nothing.

    Args:
        path: the file.
        by_color: of a palette mask give the colours, not the indices.

    Returns:
        ``[H,W]`` numbers or ``[H,W,3]`` colours, and the palette of a palette mask.

    Raises:
        DataError: as `open_mask`, but for values and colours, which may be any.
    """
    with open_source(path, "mask", exact=True) as source:
        _refuse_lossy(source)
        try:
            return _stored(source, by_color=by_color)
        except MemoryError:
            raise source.no_memory() from None


def _refuse_lossy(source: Source) -> None:
    name = source.page.lossy if source.page is not None else None
    if source.image is not None and source.page is None and source.image.format not in MASK_FORMATS:
        name = "JPEG" if source.image.format == "MPO" else source.image.format
    if name is not None:
        raise DataError(
            f"{source.path}: {name} is not a format for masks: lossy compression changes the class indices",
            hint=_PNG_HINT,
        )


def _stored(source: Source, *, by_color: bool) -> tuple[NDArray[Any], dict[int, Color] | None]:
    """``[H,W]`` indices or ``[H,W,3]`` colours, and the palette of a palette mask."""
    if source.image is None:
        if source.page is not None and source.page.kind == "other":
            raise DataError(f"{source.path}: a mask of complex or mixed values holds no class indices", hint=_PNG_HINT)
        return _without_alpha(source.tiff_values(), source), None
    image = source.image
    raw, maximum = source.raw_mode, stored_maximum(source)
    with decoding(source.path, source.kind):
        image.load()
        if image.mode == "P" and by_color:
            return np.array(image.convert("RGB")), None
        values = np.array(image)
    if image.mode in ("P", "1"):
        return values.astype(np.uint8), _palette(image)
    if image.mode == "L" or image.mode in SIXTEEN_BIT or image.mode in ("I", "F"):
        unsigned = source.page is not None and source.page.kind == "u" and values.dtype == np.int32
        return as_stored(source, values.view(np.uint32) if unsigned else values, maximum), None
    if image.mode in _CHANNELS and ";16" not in raw:
        return _without_alpha(as_stored(source, values, maximum), source), None
    mode = f"{image.mode} of 16 bits" if ";16" in raw else image.mode
    raise DataError(
        f"{source.path}: a mask has one channel of class indices, or three of class colours, this one is {mode}",
        hint=_PNG_HINT,
    )


def _without_alpha(values: NDArray[Any], source: Source) -> NDArray[Any]:
    """One or three channels; a further one must be opaque alpha."""
    channels = values.shape[2]
    if channels in (2, 4) and (values[..., -1] == _opaque(values.dtype)).all():
        channels -= 1
    elif channels in (2, 4):
        raise DataError(f"{source.path}: a mask with transparent pixels: their class is unknown", hint=_PNG_HINT)
    if channels not in (1, 3):
        raise DataError(
            f"{source.path}: a mask has one channel of class indices or three of class colours, this one {channels}",
            hint=_PNG_HINT,
        )
    return values[..., 0] if channels == 1 else values[..., :3]


def _opaque(dtype: np.dtype[Any]) -> int:
    return int(np.iinfo(dtype).max) if dtype.kind in "iu" else 1


def _indices(values: NDArray[Any], reading: MaskReading, path: Path) -> UInt8Array:
    if values.ndim == 2:
        return _fitting(values, path)
    eight_bit = values.dtype == np.uint8
    indices, found = _by_color(values, reading, path) if eight_bit else (None, np.zeros(values.shape[:2], np.bool_))
    if indices is not None and found.all():
        return indices
    if (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
        return _fitting(values[..., 0], path)
    if not eight_bit:
        raise DataError(f"{path}: a mask with three channels of {values.dtype}; colours have 8 bits", hint=_PNG_HINT)
    raise _strange_colors(values[~found], reading.colors, path)


def _fitting(values: NDArray[Any], path: Path) -> UInt8Array:
    """Values of any type as uint8.

    Raises:
        DataError: one is no whole number of 0 to 255.
    """
    if values.dtype == np.uint8:
        return np.array(values)
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (np.floor(values) == values).all()):
        raise DataError(
            f"{path}: a mask of {values.dtype} with values that are no class indices",
            hint="Masks hold whole numbers; turn probabilities into classes first.",
        )
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        wrong = int(low) if low < 0 else int(high)
        raise DataError(
            f"{path}: a mask of {values.dtype} with the value {wrong}; class indices go from 0 to 255",
            hint="Instance ids are not class indices: map them to classes first."
            if low >= 0
            else "Write the ignore index (data.ignore_index) in place of negative values.",
        )
    return values.astype(np.uint8)


def _by_color(values: NDArray[np.uint8], reading: MaskReading, path: Path) -> tuple[UInt8Array, NDArray[np.bool_]]:
    """Indices of the colours that are known, and where they are."""
    meanings: dict[int, set[int]] = {}
    for index, color in enumerate(reading.colors):
        meanings.setdefault(_code(color), set()).add(index)
    for color in reading.ignore_colors:
        meanings.setdefault(_code(color), set()).add(reading.ignore_index)
    if not meanings:
        return np.zeros(values.shape[:2], np.uint8), np.zeros(values.shape[:2], np.bool_)
    known = np.array(sorted(meanings), dtype=np.uint32)
    codes = _codes(values)
    places = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    found = known[places] == codes
    for place in np.flatnonzero(np.bincount(places[found], minlength=len(known))).tolist():
        if len(several := meanings[int(known[place])]) > 1:
            raise DataError(
                f"{path}: a colour mask with the colour {_color(int(known[place]))}, which means "
                f"{' and '.join(map(str, sorted(several)))}",
                hint="Give every class a colour of its own in data.colors and data.ignore_colors.",
            )
    indices = np.array([min(meanings[code]) for code in known.tolist()], dtype=np.uint8)
    return np.where(found, indices[places], 0).astype(np.uint8), found


def _code(color: Color) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _color(code: int) -> Color:
    return code >> 16, code >> 8 & 255, code & 255


def _codes(values: NDArray[np.uint8]) -> NDArray[np.uint32]:
    red, green, blue = (values[..., channel].astype(np.uint32) for channel in range(3))
    codes: NDArray[np.uint32] = red << np.uint32(16) | green << np.uint32(8) | blue
    return codes


def _strange_colors(pixels: NDArray[np.uint8], colors: Sequence[Color], path: Path) -> DataError:
    codes, counts = np.unique(_codes(pixels), return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_NAMED]
    named = [f"{_color(int(codes[i]))} in {counts[i]}{_beside(_color(int(codes[i])), colors)}" for i in order]
    more = f" and {len(codes) - _NAMED} more colours" if len(codes) > _NAMED else ""
    many = " Antialiased or resampled edges make colours between those of the classes." if len(codes) > 256 else ""
    return DataError(
        f"{path}: a colour mask with colours that are no class: {', '.join(named)}{more}, {len(pixels)} pixels in all",
        hint=_COLOR_HINT + many,
    )


def _beside(color: Color, colors: Sequence[Color]) -> str:
    """The class whose colour this one almost is."""
    distance, index = min(
        ((max(abs(a - b) for a, b in zip(color, other, strict=True)), index) for index, other in enumerate(colors)),
        default=(256, 0),
    )
    return f" (almost class {index}, {colors[index]})" if distance <= _ALMOST else ""


def _palette(image: Image.Image) -> dict[int, Color] | None:
    if image.mode != "P":
        return None
    flat = image.getpalette("RGB") or []
    colors = [(flat[at], flat[at + 1], flat[at + 2]) for at in range(0, len(flat) - 2, 3)]
    colors += [(0, 0, 0)] * (256 - len(colors))
    return dict(enumerate(colors))


def _replace_values(indices: UInt8Array, value_map: Mapping[int, int]) -> UInt8Array:
    table = np.arange(256, dtype=np.uint8)
    for value, replacement in value_map.items():
        table[value] = replacement
    return np.take(table, indices)
