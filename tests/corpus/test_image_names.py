"""Names of image files that break terminals, JSON and tables: read, and readable wherever they are shown."""

import json
import os
from collections.abc import Callable

import pytest

from tests.corpus.image_cases import containing, others_are_done, predicting, refuses, shows
from tests.corpus.judging import Case, Place
from tests.corpus.launching import Ended
from tests.corpus.pictures import PICTURE, encoded

_ODD_NAMES = {
    "markup": "[/red] [bold]x.png",
    "newline": "a\nError: b.png",
    "escape": "a\x1b[31mred.png",
    "tabs-and-blanks": " a\t b .png",
    "quotes": "a'\"`$(touch b).png",
    "braces": "{stem}%s%d{0}.png",
    "backslash": "a\\b.png",
    "comma": "a,b;c.png",
    "dash": "--json.png",
    "not-utf8": os.fsdecode(b"stra\xdfe-\xff.png"),
    "right-to-left": "\u202egnp.exe\u202c.png",
    "combining": "u\u0308 \u00fc.png",
    "emoji": "\U0001f6f0\ufe0f.png",
    "as-long-as-names-go": "x" * 251 + ".png",
    "as-long-as-names-go-in-bytes": "ü" * 125 + ".png",
}


def _named(name: str, file: str, *, json_: bool = False, encoding: str = "utf-8") -> Case:
    def make(place: Place) -> list[object]:
        line = predicting(file, containing(encoded(PICTURE, "PNG")))(place)
        return [*line, "--json"] if json_ else line

    def check(place: Place, ended: Ended) -> None:
        shows(file, PICTURE)(place, ended)
        if json_:
            images = json.loads(ended.out.decode("utf-8"))["images"]
            assert len(images) == 3

    return Case(
        f"name-{name}{'-json' if json_ else ''}{'' if encoding == 'utf-8' else '-' + encoding}",
        make,
        right=check,
        must_pass=True,
        encoding=encoding,
    )


_BOTH = ("markup", "newline", "escape", "not-utf8", "right-to-left", "emoji")
NAMES = [
    _named(name, file, json_=json_)
    for name, file in _ODD_NAMES.items()
    for json_ in ((True,) if name in _BOTH else (False,))
]
NAMES += [
    _named(name, _ODD_NAMES[name], encoding=encoding)
    for name in ("emoji", "not-utf8")
    for encoding in ("ascii", "latin-1")
]


def _damaged_with_name(name: str, file: str, encoding: str) -> Case:
    """A damaged file of an odd name: the error is readable wherever it is shown."""
    case = refuses(f"damaged-{name}-{encoding}", file, b"no image")
    return Case(case.name, case.make, ("x.png", "red.png", ".png"), after=others_are_done, encoding=encoding)


NAMES += [
    _damaged_with_name(name, _ODD_NAMES[name], encoding)
    for name in ("markup", "newline", "escape", "not-utf8", "emoji")
    for encoding in ("utf-8", "ascii")
]


@pytest.mark.parametrize("case", NAMES, ids=lambda case: case.name)
def test_image_name(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
