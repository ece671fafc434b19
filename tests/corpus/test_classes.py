"""Files of class names: read with their names as they are, or named."""

import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.corpus.judging import Case, Place
from tests.corpus.kits import NAMES, recipe_tree, write_data, write_recipe
from tests.corpus.launching import Ended


def _check(content: bytes | Callable[[Any], object]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        file = write_data(place / "data") / "classes.json"
        file.write_bytes(content) if isinstance(content, bytes) else content(file)
        tree = recipe_tree(place / "data")
        tree["data"]["classes"] = "classes.json"
        return ["check", write_recipe(place / "mine.yaml", tree), "--json"]

    return make


def _says(names: list[str]) -> Callable[[Place, Ended], None]:
    def check(place: Place, ended: Ended) -> None:
        assert [entry["name"] for entry in json.loads(ended.out.decode("utf-8"))["classes"]] == names

    return check


def _names(*names: object, **more: object) -> bytes:
    return json.dumps({"names": list(names), **more}).encode()


def reads(name: str, content: bytes, *names: str) -> Case:
    return Case(name, _check(content), right=_says(list(names or NAMES)), must_pass=True)


def either(name: str, content: bytes, *names: str) -> Case:
    return Case(name, _check(content), ("classes.json", "data.classes"), right=_says(list(names or NAMES)))


def refuses(name: str, content: bytes | Callable[[Any], object]) -> Case:
    return Case(name, _check(content), ("classes.json", "data.classes"))


_DEEP = b"[" * 100_000 + b"]" * 100_000
CASES = [
    reads("plain", _names(*NAMES)),
    reads("byte-order-mark", b"\xef\xbb\xbf" + _names(*NAMES)),
    reads("colours", _names(*NAMES, colors=[[0, 0, 0], [1, 2, 3], [255, 255, 255]])),
    reads("more-than-is-asked-for", _names(*NAMES, author="somebody", version=3)),
    reads("markup", _names("[/red]", "[bold]b", "c[/]"), "[/red]", "[bold]b", "c[/]"),
    reads("letters-of-all-kinds", _names("Straße", "道路", "\U0001f333"), "Straße", "道路", "\U0001f333"),
    either("blanks-around", _names(" a", "b ", "c"), " a", "b ", "c"),
    either("empty-name", _names("", "b", "c"), "", "b", "c"),
    either("newline", _names("a\nb", "b", "c"), "a\nb", "b", "c"),
    either("escape", _names("\x1b[31m", "b", "c"), "\x1b[31m", "b", "c"),
    either("name-of-5000-characters", _names("x" * 5000, "b", "c"), "x" * 5000, "b", "c"),
    either("names-twice-in-the-file", b'{"names": ["x"], "names": ["ground", "red", "blue"]}'),
    refuses("empty", b""),
    refuses("text", b"ground\nred\nblue\n"),
    refuses("a-list", json.dumps(NAMES).encode()),
    refuses("a-number", b"3"),
    refuses("null", b"null"),
    refuses("no-names", b"{}"),
    refuses("names-null", b'{"names": null}'),
    refuses("names-empty", _names()),
    refuses("names-a-word", b'{"names": "ground"}'),
    refuses("names-a-map", b'{"names": {"0": "ground"}}'),
    refuses("names-of-numbers", _names(1, 2, 3)),
    refuses("names-nested", _names(["a"], "b", "c")),
    refuses("the-same-name-twice", _names("a", "a", "b")),
    refuses("surrogate", b'{"names": ["\\ud800", "b", "c"]}'),
    refuses("nul", _names("a\0", "b", "c")),
    refuses("300-names", _names(*map(str, range(300)))),
    refuses("a-million-names", _names(*map(str, range(10**6)))),
    refuses("colours-too-few", _names(*NAMES, colors=[[0, 0, 0]])),
    refuses("colours-out-of-range", _names(*NAMES, colors=[[0, 0, 256]] * 3)),
    refuses("colours-negative", _names(*NAMES, colors=[[0, 0, -1]] * 3)),
    refuses("colours-of-fractions", _names(*NAMES, colors=[[0, 0, 0.5]] * 3)),
    refuses("colours-of-two-numbers", _names(*NAMES, colors=[[0, 0]] * 3)),
    refuses("colours-words", _names(*NAMES, colors=["red", "green", "blue"])),
    refuses("colours-nan", b'{"names": ["a","b","c"], "colors": [[NaN,0,0],[0,0,0],[0,0,0]]}'),
    refuses("cut", _names(*NAMES)[:-3]),
    refuses("comma-too-many", b'{"names": ["a", "b", "c",]}'),
    refuses("single-quotes", b"{'names': ['a', 'b', 'c']}"),
    refuses("two-documents", _names(*NAMES) * 2),
    refuses("nested-deeply", _DEEP),
    refuses("names-nested-deeply", b'{"names": ' + _DEEP + b"}"),
    refuses("number-of-5000-digits", b'{"names": ' + b"9" * 5000 + b"}"),
    refuses("not-utf8", '{"names": ["Straße", "b", "c"]}'.encode("latin-1")),
    refuses("zeros", b"\0" * 1000),
    either("utf-16", _names(*NAMES).decode().encode("utf-16")),
    refuses("missing", lambda file: None),
    refuses("folder", lambda file: file.mkdir()),
    refuses("named-pipe", os.mkfifo),
    refuses("link-to-a-device", lambda file: file.symlink_to("/dev/zero")),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_classes(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
