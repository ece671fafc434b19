"""The classes of a task: names, colours, and what one class alone means."""

import colorsys
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.recipe.data import Data
from protoseg_deploy.recipe.types import ClassNames, Color


@dataclass(frozen=True)
class ClassTable:
    """Names and colours in index order.

    A recipe with one class means foreground against background: the table then holds two classes and the network has
    one output, thresholded at 0 (`binary`).
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    binary: bool = False

    def __len__(self) -> int:
        return len(self.names)

    def fault(self) -> str | None:
        """Why no network can have these classes, as a file may say; None where one can."""
        if len(self.names) < 2:
            return f"{len(self.names)} of at least 2"
        if len(set(self.names)) != len(self.names):
            return "the same name twice"
        if len(self.colors) != len(self.names):
            return f"{len(self.colors)} colours for {len(self.names)} names"
        if self.binary and len(self.names) != 2:
            return f"binary, and {len(self.names)} names instead of 2"
        return None


class _ClassesFile(BaseModel):
    names: ClassNames
    colors: list[Color] | None = None


def class_table(data: Data) -> ClassTable:
    """The classes a recipe names, read from its JSON file where it points to one.

    Raises:
        UsageError: the file is missing or does not hold what it should.
    """
    names, colors = data.classes, data.colors
    if isinstance(names, str):
        path = Path(data.root).expanduser() / names
        names, file_colors = _read_classes(path)
        colors = colors or file_colors
        if colors is not None and len(colors) != len(names):
            raise UsageError(f"{path}: {len(colors)} colours for {len(names)} classes")
    binary = len(names) == 1
    if binary:
        names = ["background", *names]
        colors = [(0, 0, 0), *colors] if colors else None
    if len(names) > data.ignore_index:
        raise UsageError(
            f"data.classes: {len(names)} classes leave no room for data.ignore_index {data.ignore_index}",
            "Masks are 8-bit: at most 255 classes and an ignore index above them.",
        )
    return ClassTable(tuple(names), tuple(colors or _palette(len(names))), binary)


def _read_classes(path: Path) -> tuple[list[str], list[Color] | None]:
    try:
        content = read_document(path, _ClassesFile, 'It should look like {"names": ["sky", "road"]}.')
    except FileNotFoundError:
        raise UsageError(
            f"data.classes: no such file: {path}", "Give a list of names, or a JSON file with `names`."
        ) from None
    except ProtosegError as error:
        raise UsageError(f"data.classes: {error.message}", error.hint) from None
    if len(set(content.names)) != len(content.names):
        raise UsageError(f"data.classes: {path}: `names` holds a name twice")
    return content.names, content.colors


def _palette(count: int) -> list[Color]:
    """Distinct colours: hues spread by the golden ratio, three brightness levels; the first is black."""
    colors: list[Color] = [(0, 0, 0)]
    for number in range(1, count):
        red, green, blue = colorsys.hsv_to_rgb(number * 0.61803398875 % 1.0, 0.75, (1.0, 0.75, 0.5)[number % 3])
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors[:count]
