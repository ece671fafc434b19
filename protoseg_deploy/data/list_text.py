"""The text of list files: lines, columns, spellings of a name. No file of a data set is looked up here.

Lines are bytes as the file system has them, so that names which are no text survive; a byte order mark (UTF-8 or
UTF-16) is understood. A column that JSON can read as a string (``"two\\twords.png"``) is that string: so a list holds
any name at all.
"""

import csv
import json
import os
import re
import sys
import unicodedata
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path

from protoseg_deploy.data.paths import is_image_name
from protoseg_deploy.files import open_regular

SEPARATORS = (",", ";")
"""Of columns, besides tabs and blanks, where names with these in them do not exist."""

_LONGEST_LINE = 16_384
"""Characters: two paths as long as Linux allows, with room to spare."""
_BLOCK = 2**18
_MOST_WORDS = 64


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a list that are neither blank nor start with ``#``.

    Raises:
        OSError: the file cannot be read, or is no regular one.
        ValueError: it holds no text; the message says what it holds instead.
    """
    with open_regular(path) as file:
        start = file.read(3)
        encoding, errors = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()
        if start.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            encoding, errors = "utf-16", "strict"
        file.seek(len(BOM_UTF8) if start == BOM_UTF8 else 0)
        number = 0
        for lines in _blocks_of_lines(TextIOWrapper(file, encoding=encoding, errors=errors)):
            for line in lines:
                number += 1
                if "\0" in line:
                    raise ValueError(f"not a text file: line {number} holds a zero byte")
                if len(line) > _LONGEST_LINE:
                    raise ValueError(f"line {number} is longer than {_LONGEST_LINE} characters: not a list of files")
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if line and not line.isspace() and not line.lstrip().startswith("#"):
                    yield number, line


def _blocks_of_lines(text: TextIOWrapper) -> Iterator[list[str]]:
    """Lines without their ends, many at a time; of one without end the beginning."""
    rest = ""
    while block := text.read(_BLOCK):
        *lines, rest = (rest + block).split("\n")
        yield lines
        if len(rest) > _LONGEST_LINE:
            break
    if rest:
        yield [rest]


def splittings(text: str) -> Iterator[list[str]]:
    """The columns that a line may mean, the likeliest first: the first whose image exists is the one.

    A tab always separates. Blanks, commas and semicolons may belong to names, so that the longest name comes first.
    """
    if (quoted := _quoted(text)) is not None:
        yield quoted
    if "\t" in text:
        yield [column for column in text.split("\t") if column.strip()]
        return
    yield [text]
    text = text.strip()
    blanks = list(re.finditer(r"\s+", text))
    if len(blanks) < _MOST_WORDS:
        yield [text]
        for blank in reversed(blanks):
            yield [text[: blank.start()], text[blank.end() :]]
    for separator in SEPARATORS:
        if separator in text:
            yield separated(text, separator)


def plain_columns(text: str) -> list[str]:
    """The columns of a line of which no image exists, to say what is missing."""
    if (quoted := _quoted(text)) is not None:
        return quoted
    if "\t" in text:
        return [column.strip() for column in text.split("\t") if column.strip()]
    for separator in SEPARATORS:
        columns = separated(text, separator)
        if len(columns) > 1 and is_image_name(columns[0]):
            return columns
    return text.split()


def separated(text: str, separator: str) -> list[str]:
    """Columns as spreadsheets write them, quotes taken off."""
    return [column for column in map(str.strip, next(csv.reader([text], delimiter=separator))) if column]


def image_column(text: str) -> str:
    """The image of a line, without a look at what files there are; commas and semicolons belong to it."""
    if (quoted := _quoted(text)) is not None:
        return quoted[0]
    if "\t" in text:
        return text.partition("\t")[0].strip()
    text = text.strip()
    for blank in re.finditer(r"\s+", text):
        if is_image_name(text[: blank.start()]):
            return text[: blank.start()]
    return text if is_image_name(text) else text.split()[0]


def spellings(name: str) -> Iterator[str]:
    """A name as it stands, then as other systems may have meant it."""
    yield name
    stripped = name.strip()
    variants = [stripped, stripped.replace("\\", "/")]
    if not name.isascii():
        for variant in tuple(variants):
            # macOS keeps accents apart from their letters; old Windows programs write one byte a letter.
            variants += [unicodedata.normalize(form, variant) for form in ("NFC", "NFD")]
            with suppress(UnicodeEncodeError):  # a surrogate that stands for no byte
                variants.append(os.fsencode(variant).decode("cp1252", errors="replace"))
    yield from (variant for variant in dict.fromkeys(variants) if variant and variant != name)


def as_column(name: str) -> str:
    """A name as it stands in a list: as it is, or as a JSON string where a line could not hold it otherwise."""
    if name != name.strip() or len(name.splitlines()) != 1 or name.startswith('"') or not _printable(name):
        return json.dumps(name, ensure_ascii=False)
    return f"./{name}" if name.startswith("#") else name


def _printable(name: str) -> bool:
    return not any(ord(character) < 32 or ord(character) == 127 for character in name)


def _quoted(text: str) -> list[str] | None:
    """Columns of which at least the first is a JSON string; None for any other line."""
    if not text.lstrip().startswith('"'):
        return None
    columns = []
    for column in text.split("\t"):
        if column.lstrip().startswith('"'):
            try:
                value = json.loads(column)
            except ValueError:
                return None
            columns.append(value)
        elif column.strip():
            columns.append(column)
    return columns if all(isinstance(column, str) and column for column in columns) else None
