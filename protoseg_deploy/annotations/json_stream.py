"""Large JSON files, one element at a time: a list of a million annotations never lies in memory as a whole."""

import json
from collections.abc import Iterator
from io import TextIOWrapper
from json import JSONDecodeError
from pathlib import Path
from typing import Any, TextIO

from protoseg_deploy.errors import DataError
from protoseg_deploy.files import open_regular

CHUNK = 1 << 20
"""Characters that are read at a time."""
_LARGEST = 1 << 30
"""Characters of one element; lists are split, so it takes a file of one giant object to reach this."""
_BLANK = " \t\n\r"


def stream_elements(path: Path) -> Iterator[tuple[str, Any]]:
    """Elements of the lists right below the top of a JSON document, and its other values.

    ``{"a": 1, "b": [2, 3]}`` gives ``("a", 1)``, ``("b", 2)``, ``("b", 3)``; ``[4]`` gives ``("", 4)``. ``NaN`` is read
    as Python's `json` does, so that one bad number does not spoil the file.

    Raises:
        DataError: the file cannot be read, or is no JSON, or ends early; the message names it and the place.
    """
    try:
        with open_regular(path) as file:
            head = file.read(4)
            encoding = json.detect_encoding(head) if head else "utf-8"
            file.seek(0)
            yield from _Stream(path, TextIOWrapper(file, encoding)).elements()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not JSON: no text in UTF-8") from None
    except RecursionError:
        raise DataError(f"{path}: not usable: nested too deeply") from None


class _Stream:
    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._at, self._done = "", 0, 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def elements(self) -> Iterator[tuple[str, Any]]:
        first = self._peek()
        if first == "[":
            yield from self._list("")
        elif first == "{":
            self._at += 1
            if self._peek() == "}":
                self._at += 1
            else:
                while True:
                    key = self._value()
                    if not isinstance(key, str):
                        raise self._fault("a key that is no text")
                    self._expect(":")
                    if self._peek() == "[":
                        yield from self._list(key)
                    else:
                        yield key, self._value()
                    if self._expect(",}") == "}":
                        break
        else:
            raise self._fault("a JSON document begins with { or [")
        if self._peek(at_end=True):
            raise self._fault("more text after the end of the document")

    def _list(self, key: str) -> Iterator[tuple[str, Any]]:
        self._at += 1
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            yield key, self._value()
            if self._expect(",]") == "]":
                return

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except JSONDecodeError as error:
                if not self._more():
                    raise self._fault(error.msg, error.pos) from None
                continue
            except ValueError as error:  # an integer of thousands of digits
                raise self._fault(str(error)) from None
            if len(self._text) - end < 3 and isinstance(value, int | float) and self._more():
                continue  # a number may go on, as 1 does in 1e+5
            self._at = end
            return value

    def _peek(self, at_end: bool = False) -> str:
        """The next character that is not blank."""
        while True:
            text, at = self._text, self._at
            while at < len(text) and text[at] in _BLANK:
                at += 1
            self._at = at
            if at < len(text):
                return text[at]
            if not self._more():
                if at_end:
                    return ""
                raise self._fault("it ends early; was it cut off while it was copied or written?")

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if found not in characters:
            raise self._fault(f"{' or '.join(characters)} expected")
        self._at += 1
        return found

    def _more(self) -> bool:
        """Read on; what was used is dropped."""
        if self._ended:
            return False
        rest = self._text[self._at :]
        if len(rest) > _LARGEST:
            raise self._fault(f"one element of more than {_LARGEST:,} characters")
        chunk = self._file.read(max(CHUNK, len(rest)))
        if not chunk:
            self._ended = True
            return False
        self._done += self._at
        self._text, self._at = rest + chunk, 0
        return True

    def _fault(self, reason: str, position: int | None = None) -> DataError:
        at = self._done + (self._at if position is None else position)
        return DataError(f"{self._path}: not valid JSON at character {at:,}: {reason}")
