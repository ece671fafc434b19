"""Lists of classes, with or without colours, in the forms that tools and data sets have them.

Read are: JSON (``{"names": […], "colors": […]}``, ``{"name": [r, g, b]}``, a list of names or of objects with `name`
and `color`), YAML with `names`, CSV (``name,r,g,b``), CVAT's and VOC's ``labelmap.txt`` (``name:r,g,b:…``), CamVid's
``label_colors.txt`` (``r g b name``) and plain text with a name on each line.
"""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from protoseg_deploy.annotations.shapes import DeclaredClass
from protoseg_deploy.data.list_text import read_lines
from protoseg_deploy.documents import as_utf8
from protoseg_deploy.errors import DataError
from protoseg_deploy.files import open_regular, read_at_most
from protoseg_deploy.recipe import Color
from protoseg_deploy.text import shown

_MOST_BYTES = 1 << 22
_HEX = re.compile(r"#?([0-9a-fA-F]{6})")
_HINT = 'A line for each class, such as `road,128,64,128`; or JSON such as {"road": [128, 64, 128]}.'
_NAMES = ("name", "class", "label", "class_name")


def read_classes(path: Path) -> tuple[DeclaredClass, ...]:
    """Classes of a file, in its order.

    Raises:
        DataError: it cannot be read, or holds no classes; the message names file and line.
    """
    try:
        if path.suffix.lower() == ".json":
            found = list(_from_tree(json.loads(_content(path)), path))
        elif path.suffix.lower() in (".yaml", ".yml"):
            import yaml

            found = list(_from_tree(yaml.safe_load(_content(path)), path))
        else:
            found = [one for number, line in read_lines(path) if (one := _from_line(line, number, path))]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: no list of classes: {error}", hint=_HINT) from None
    except Exception as error:  # PyYAML's own
        raise error if isinstance(error, DataError) else DataError(f"{path}: no list of classes", hint=_HINT) from None
    if not found:
        raise DataError(f"{path}: no classes in it", hint=_HINT)
    return tuple(found)


def parse_color(value: Any) -> Color | None:
    """``[r, g, b]`` or ``#rrggbb``; None for what is no colour."""
    if isinstance(value, str):
        match = _HEX.fullmatch(value.strip())
        return (int(match[1][:2], 16), int(match[1][2:4], 16), int(match[1][4:], 16)) if match else None
    if isinstance(value, list | tuple) and len(value) >= 3:
        parts = [int(part) for part in value[:3] if isinstance(part, int | float) and 0 <= part <= 255]
        return (parts[0], parts[1], parts[2]) if len(parts) == 3 else None
    return None


def _content(path: Path) -> bytes:
    with open_regular(path) as file:
        content = read_at_most(file, _MOST_BYTES)
    if content is None:
        raise ValueError("larger than 4 MiB")
    return as_utf8(content)


def _from_tree(tree: Any, path: Path) -> Iterator[DeclaredClass]:
    if isinstance(tree, dict) and "names" in tree:
        names = tree["names"]
        colors = tree.get("colors") or ()
        if isinstance(names, dict):  # of YOLO: index to name
            names = [names[key] for key in sorted(names, key=int)]
        for number, name in enumerate(names):
            yield _declared(name, colors[number] if number < len(colors) else None, path)
    elif isinstance(tree, dict) and isinstance(tree.get("classes"), list):
        yield from _from_tree(tree["classes"], path)
    elif isinstance(tree, dict):
        for name, value in tree.items():
            yield _declared(name, value.get("color") if isinstance(value, dict) else value, path)
    elif isinstance(tree, list):
        for one in tree:
            if isinstance(one, dict):
                name = next((one[key] for key in (*_NAMES, "title") if key in one), None)
                yield _declared(name, one.get("color"), path)
            else:
                yield _declared(one, None, path)


def _declared(name: Any, color: Any, path: Path) -> DeclaredClass:
    if not isinstance(name, str | int) or isinstance(name, bool):
        raise DataError(f"{path}: {shown(name)} is no name of a class", hint=_HINT)
    parsed = parse_color(color)
    if color is not None and parsed is None:
        raise DataError(f"{path}: the colour of {name!r} is {shown(color)}, not [r, g, b] or #rrggbb", hint=_HINT)
    return DeclaredClass(str(name), parsed)


def _from_line(line: str, number: int, path: Path) -> DeclaredClass | None:
    """A line of text; None for headings."""
    line = line.strip()
    if "," in line and ":" not in line:
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if cells[0].casefold() in _NAMES and not any(cell.isdecimal() for cell in cells):
            return None
        if len(cells) == 2 and _HEX.fullmatch(cells[1]):
            return _declared(cells[0], cells[1], path)
        return _declared(cells[0], _bytes(cells[1:4], number, path), path)
    if match := re.match(r"(.+?):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*(:|$)", line):
        return _declared(match[1], _bytes(match.group(2, 3, 4), number, path), path)
    if match := re.fullmatch(r"(\d+)\s+(\d+)\s+(\d+)\s+(\S.*)", line):
        return _declared(match[4], _bytes(match.group(1, 2, 3), number, path), path)
    if match := re.fullmatch(r"(\S.*?)\s+(\d+)\s+(\d+)\s+(\d+)", line):
        return _declared(match[1], _bytes(match.group(2, 3, 4), number, path), path)
    return _declared(line, None, path)


def _bytes(texts: Any, number: int, path: Path) -> list[int]:
    if len(texts) != 3 or not all(text.isdecimal() and int(text) <= 255 for text in texts):
        raise DataError(f"{path}: line {number}: a colour is three numbers from 0 to 255", hint=_HINT)
    return [int(text) for text in texts]
