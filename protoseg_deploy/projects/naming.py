"""What the values of masks are called, and how a recipe reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.annotations.class_files import read_classes
from protoseg_deploy.annotations.shapes import DeclaredClass
from protoseg_deploy.data.survey import MaskContent, color_of, total_pixels
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.recipe import Color

IGNORED = 255
_NAME_FILES = (
    "classes.json", "classes.txt", "labels.txt", "labelmap.txt", "obj.names", "label_colors.txt", "class_dict.csv",
)  # fmt: skip
_IGNORE_NAMES = {"void", "ignore", "ignored", "unlabeled", "unlabelled", "unknown", "undefined"}
_COMMON = {
    (0, 0, 0): "black", (255, 255, 255): "white", (255, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue",
    (255, 255, 0): "yellow", (255, 0, 255): "magenta", (0, 255, 255): "cyan", (128, 128, 128): "grey",
}  # fmt: skip
_MOST_CLASSES = 256
_RARE = 1e-5
"""Share of the pixels below which a value between two others is doubted."""


@dataclass(frozen=True)
class Naming:
    """The classes of a project, with the reasons."""

    names: tuple[str, ...]
    """One name: foreground against background."""
    colors: tuple[Color, ...] | None
    value_map: Mapping[int, int]
    ignore_colors: tuple[Color, ...]
    reason: str
    read_by_color: bool


def name_classes(contents: Sequence[MaskContent], places: Sequence[Path], names_file: Path | None = None) -> Naming:
    """Find out what masks mean.

    Args:
        contents: of all masks.
        places: folders to look for a file of class names in.
        names_file: such a file, in any form that `read_classes` knows.

    Raises:
        DataError: there are too many values for classes, or one alone; or the file of names cannot be read.
        UsageError: the file of names is missing, or names other values.
    """
    if names_file is not None and not names_file.is_file():
        raise UsageError(f"--classes: no such file: {names_file}")
    sound = [content for content in contents if not content.fault]
    file = names_file or next(
        (place / name for place in places for name in _NAME_FILES if (place / name).is_file()), None
    )
    known = read_classes(file) if file is not None else []
    if any(content.is_color for content in sound):
        return _colors(sound, known, file)
    return _indices(sound, known, file, explicit=names_file is not None)


def _indices(
    contents: Sequence[MaskContent], known: Sequence[DeclaredClass], file: Path | None, *, explicit: bool
) -> Naming:
    pixels = total_pixels(contents)
    values = sorted(pixels)
    if not values or values[0] < 0 or len(values) > _MOST_CLASSES:
        raise DataError(
            f"the masks hold {len(values)} different values, from {values[0] if values else '–'} to "
            f"{values[-1] if values else '–'}: these are no classes",
            hint="Instance ids are not class indices; `protoseg convert` reads the formats of annotation tools.",
        )
    classes = [value for value in values if value != IGNORED]
    if values == [0, IGNORED]:
        return Naming(("foreground",), None, {IGNORED: 1}, (), "masks of 0 and 255: foreground and background", False)
    if values == [0, 1] and not known:
        return Naming(("foreground",), None, {}, (), "masks of 0 and 1: foreground and background", False)
    if len(classes) < 2:
        raise DataError(f"the masks hold no class but {classes or 'none'}: there is nothing to tell apart")
    colors = {index: color for content in contents for index, color in content.palette.items()}
    if known and max(classes) < len(known):
        chosen = tuple(name.name for name in known)
        found = tuple(name.color or colors.get(index, (0, 0, 0)) for index, name in enumerate(known))
        return Naming(chosen, _distinct(found), {}, (), f"names from {file}", False)
    if explicit:
        raise UsageError(f"{file} names {len(known)} classes; the masks hold the values up to {max(classes)}")
    count = max(classes) + 1
    if count == len(classes) or count <= 2 * len(classes):
        missing = sorted(set(range(count)) - set(classes))
        said = f"values 0 to {max(classes)}" + (f", of which no mask shows {_listed(missing)}" if missing else "")
        names = tuple(f"class_{value}" for value in range(count))
        return Naming(names, _distinct(tuple(colors.get(v, (0, 0, 0)) for v in range(count))), {}, (), said, False)
    value_map = {value: index for index, value in enumerate(classes) if value != index}
    names = tuple(f"value_{value}" for value in classes)
    said = f"{len(classes)} values between 0 and {max(classes)}, numbered anew"
    return Naming(names, _distinct(tuple(colors.get(v, (0, 0, 0)) for v in classes)), value_map, (), said, False)


def _colors(contents: Sequence[MaskContent], known: Sequence[DeclaredClass], file: Path | None) -> Naming:
    pixels = total_pixels([content for content in contents if content.is_color])
    for content in contents:  # grey masks among them: black or white alone
        if not content.is_color:
            pixels.update({value * 0x010101: count for value, count in content.pixels.items() if value < 256})
    by_color = {name.color: name.name for name in known if name.color is not None}
    total = pixels.total()
    doubtful = [code for code, count in pixels.items() if count < _RARE * total and color_of(code) not in by_color]
    if len(pixels) > _MOST_CLASSES or (doubtful and len(doubtful) > len(pixels) / 2):
        raise DataError(
            f"the colour masks hold {len(pixels)} colours, {len(doubtful)} of them hardly ever: these are no classes",
            hint="Masks that were resized or stored as JPEG have colours in between: export them again, as PNG.",
        )
    if by_color:
        order = [name for name in known if name.color is not None]
        strange = [color_of(code) for code in pixels if color_of(code) not in by_color]
        if strange:
            raise UsageError(
                f"{file} does not name the colour {strange[0]}, which masks hold", "Add it, or mend the masks."
            )
        ignored = tuple(name.color for name in order if name.color and name.name.lower() in _IGNORE_NAMES)
        kept = [name for name in order if name.name.lower() not in _IGNORE_NAMES and name.color is not None]
        return Naming(
            tuple(name.name for name in kept), tuple(name.color for name in kept if name.color), {}, ignored,
            f"colours and names from {file}", True,
        )  # fmt: skip
    codes = sorted(pixels)
    if len(codes) < 2:
        raise DataError(f"the colour masks hold the colour {color_of(codes[0])} alone: there is nothing to tell apart")
    names = tuple(_COMMON.get(color_of(code)) or "color_{}_{}_{}".format(*color_of(code)) for code in codes)
    said = f"{len(codes)} colours, named after themselves: rename them in classes.json"
    return Naming(names, tuple(color_of(code) for code in codes), {}, (), said, True)


def _distinct(colors: tuple[Color, ...]) -> tuple[Color, ...] | None:
    return colors if len(set(colors)) == len(colors) else None


def _listed(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:5]))
    return shown if len(values) <= 5 else f"{shown} and {len(values) - 5} more"
