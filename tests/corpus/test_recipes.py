"""Recipes: every key with values of every kind, and YAML made to keep its reader busy."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from protoseg_deploy.recipe import dump_recipe, load_recipe
from tests.corpus.judging import Case, Place
from tests.corpus.kits import recipe_tree, write_data, write_recipe
from tests.corpus.launching import Ended
from tests.corpus.spoiling import Key, one_each

LIMIT_S = 20.0
"""A hostile recipe takes two seconds at most; ten times that on a machine that is busy."""


def _complete() -> Any:
    """Every key there is, with its default."""
    folder = Path(__file__).parents[2] / "recipes"
    tree = yaml.safe_load(dump_recipe(load_recipe(folder / "inhouse-template.yaml")))
    for section, values in recipe_tree("data").items():
        tree[section] = {**tree[section], **values}
    return tree


def _show(tree: Callable[[], Any]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        text = json.dumps(tree())  # YAML as well, and it has words for every value
        text = text.replace("NaN", ".nan").replace("Infinity", ".inf")
        (place / "mine.yaml").write_text(text, encoding="utf-8")
        return ["recipe", "show", place / "mine.yaml"]

    return make


def _kept(key: Key, tree: Callable[[], Any]) -> Callable[[Place, Ended], None]:
    """What is shown is a recipe, and has the value that was given; no number in it is other than finite."""

    def check(place: Place, ended: Ended) -> None:
        shown = yaml.safe_load(ended.out.decode("utf-8"))
        (place / "again.yaml").write_bytes(ended.out)
        assert yaml.safe_load(dump_recipe(load_recipe(place / "again.yaml"))) == shown
        assert all(math.isfinite(value) for value in _numbers(shown))
        given, found = tree(), shown
        for part in key:
            given, found = given[part], found[part]
        if not isinstance(given, dict) and given is not None:
            assert found == given

    return check


def _numbers(tree: Any) -> Iterator[float]:
    if isinstance(tree, float):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _numbers(child)


def _each() -> Iterator[Case]:
    for name, tree in one_each(_complete(), seed=3, count=64):
        key = tuple(int(part) if part.isdigit() else part for part in name.rpartition("=")[0].split("."))
        named = tuple(str(part) for part in key if not isinstance(part, int))
        yield Case(name, _show(tree), (named[-1],), right=_kept(key, tree))


@pytest.mark.parametrize("case", list(_each()), ids=lambda case: case.name)
def test_every_key(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes


def _check(text: str | bytes, *options: str) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        write_data(place / "data")
        (place / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        return ["check", place / "mine.yaml", *options]

    return make


def _no_faults(place: Place, ended: Ended) -> None:
    assert b"No errors found" in ended.out


def reads(name: str, text: str | bytes, *options: str) -> Case:
    return Case(name, _check(text, *options), right=_no_faults, must_pass=True, limit_s=LIMIT_S)


def either(name: str, text: str | bytes, *options: str, names: tuple[str, ...] = ("mine.yaml",)) -> Case:
    return Case(name, _check(text, *options), names, right=_no_faults, limit_s=LIMIT_S)


def refuses(name: str, text: str | bytes, *options: str, names: tuple[str, ...] = ("mine.yaml",)) -> Case:
    return Case(name, _check(text, *options), names, limit_s=LIMIT_S)


GOOD = yaml.safe_dump(recipe_tree("data"), sort_keys=False)


def _with(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


def _bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{{', '.join(f'y{m}: *a{n - 1}' for m in range(width))}}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def _merge_bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * width)}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def _list_bomb(levels: int, width: int) -> str:
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


ODD = [
    reads("plain", GOOD),
    reads("byte-order-mark", b"\xef\xbb\xbf" + GOOD.encode()),
    reads("windows-ends-of-lines", GOOD.replace("\n", "\r\n")),
    either("utf-16", GOOD.encode("utf-16")),
    reads("document-marks", f"%YAML 1.1\n---\n{GOOD}...\n"),
    reads("number-with-exponent", _with("lr: 0.004", "lr: 4e-3")),
    reads("number-with-exponent-and-sign", _with("lr: 0.004", "lr: +4E-3")),
    reads("anchors-used-once", _with("labeled:", "labeled: &part")),
    reads("markup-in-a-class", _with("- ground", "- '[/red]'")),
    either("newline-in-a-class", _with("- ground", '- "a\\nError: b"')),
    either("override-of-a-key-twice", GOOD, "train.steps=3", "train.steps=4", names=("train.steps",)),
    reads("tag-of-a-number", _with("steps: 4", "steps: !!int '4'")),
    either("octal-steps", _with("steps: 4", "steps: 010")),
    either("steps-with-underlines", _with("steps: 4", "steps: 1_0")),
    either("sexagesimal-steps", _with("steps: 4", "steps: 1:30")),
]
HOSTILE = [
    refuses("empty", ""),
    refuses("blank", "\n \n# nothing\n"),
    refuses("a-word", "word"),
    refuses("a-list", "- data\n- model\n"),
    refuses("a-number", "5"),
    refuses("two-documents", f"{GOOD}---\n{GOOD}"),
    refuses("noise", bytes(range(256)) * 30),
    refuses("latin-1", _with("- ground", "- Straße").encode("latin-1")),
    refuses("nul", _with("- ground", "- gr\0und")),
    refuses("nul-escaped", _with("- ground", '- "gr\\0und"')),
    refuses("surrogate-escaped", _with("- ground", '- "\\ud800"')),
    refuses("surrogate", _with("- ground", "- \ud800")),
    refuses("bell", _with("- ground", "- \a")),
    refuses("tabs", GOOD.replace("  ", "\t")),
    refuses("json-cut", json.dumps(recipe_tree())[:-20]),
    refuses("key-twice", GOOD + "train:\n  steps: 5\n"),
    refuses("section-twice-as-empty", GOOD + "train:\n"),
    refuses("key-that-is-a-list", GOOD + "? [a, b]\n: c\n"),
    refuses("key-that-is-a-map", GOOD + "? {a: b}\n: c\n"),
    refuses("key-that-is-a-number", GOOD + "5: c\n"),
    refuses("key-that-is-null", GOOD + "null: c\n"),
    refuses("key-that-is-nan", _with("steps: 4", ".nan: 4")),
    refuses("key-that-is-a-date", GOOD + "2001-01-01: c\n"),
    refuses("key-with-a-dot", GOOD + "train.steps: 5\n"),
    refuses("key-with-markup", GOOD + "'[/red]': 5\n"),
    refuses("key-of-100000-characters", GOOD + "x" * 100_000 + ": 5\n"),
    refuses("key-with-an-escape", GOOD + '"\\e[31m": 5\n'),
    *(
        refuses(f"steps-{name}", _with("steps: 4", f"steps: {value}"), names=("steps", "mine.yaml:"))
        for name, value in {
            "no-int": "!!int abc", "no-bool": "!!bool xx", "no-float": "!!float x", "no-time": "!!timestamp x",
            "no-bytes": "!!binary '&'", "no-date": "2001-99-99", "set": "!!set {a, b}", "pairs": "!!pairs [a: 1]",
            "omap": "!!omap [a]", "python": "!!python/object/apply:os.system ['touch pwned']", "unknown-tag": "!mine 4",
            "5000-digits": "9" * 5000, "10000-hex-digits": "0x" + "f" * 10_000, "nan": ".nan", "infinity": ".inf",
            "minus-infinity": "-.inf", "5000-sexagesimals": ":".join(["59"] * 5000), "self": "&a [*a]", "text": "'4'",
            "fraction": "4.5", "true": "yes", "null": "~", "below-0": "-4", "alias-to-nothing": "*nothing",
            "two-values": "4 5\n  : 6", "more-than-can-be": "99999999999999999999",
        }.items()
    ),
    *(
        refuses(f"lr-{name}", _with("lr: 0.004", f"lr: {value}"), names=("lr",))
        for name, value in {"infinity": ".inf", "nan": ".NaN", "overflow": "1e999", "huge": "1.0e+300"}.items()
    ),
    *(
        refuses(f"root-{name}", _with("root: data", f"root: {value}"), names=("data.root", "root", "mine.yaml"))
        for name, value in {
            "of-nobody": "~nobody-here/x", "nul": '"da\\0ta"', "long": "x" * 5000, "file": "mine.yaml",
            "device": "/dev/null", "missing": "nowhere", "empty": "''", "many-levels": "a/" * 3000,
            "surrogate": '"\\udcff"',
        }.items()
    ),
    refuses("a-map-that-holds-itself", "data: &a {x: *a}"),
    refuses("a-list-that-holds-itself", "data: &a [*a]"),
    refuses("merge-of-itself", "data: &a {<<: *a}"),
    refuses("merge-of-a-word", "data: {<<: word}"),
    refuses("maps-that-multiply", _bomb(12, 9) + GOOD),
    refuses("lists-that-multiply", _list_bomb(12, 9) + GOOD),
    refuses("merges-that-multiply", _merge_bomb(12, 9) + GOOD),
    refuses("lists-that-multiply-in-a-key", _list_bomb(10, 9) + GOOD.replace("- ground", "- *a9")),
    refuses("lists-nested-deeply", "a: " + "[" * 5000 + "]" * 5000),
    refuses("lists-nested-very-deeply", "a: " + "[" * 500_000),
    refuses("maps-nested-deeply", "{a: " * 3000 + "1" + "}" * 3000),
    refuses("blocks-nested-deeply", "".join(f"{' ' * n}a:\n" for n in range(1500))),
    refuses("keys-nested-deeply", "? " * 5000 + "a"),
    refuses("lists-in-blocks-nested-deeply", "- " * 20_000 + "a"),
    either("comments-of-megabytes", GOOD + "# xxxxxxxxxxxxxxxx\n" * 1_000_000),
    refuses("a-word-of-megabytes", "a" * 20_000_000),
    refuses("a-value-of-megabytes", GOOD + "x: " + "a" * 20_000_000),
    refuses("100000-keys", GOOD + "".join(f"key{n}: {n}\n" for n in range(100_000))),
    refuses("100000-anchors", "".join(f"k{n}: &a{n} {n}\n" for n in range(100_000))),
    refuses("quotes-without-end", "a: '" + "x\n" * 100_000),
]  # fmt: skip


def _not_a_file(name: str, make_file: Callable[[Path], object]) -> Case:
    def make(place: Place) -> list[object]:
        make_file(place / "mine.yaml")
        return ["check", place / "mine.yaml"]

    return Case(f"file-{name}", make, ("mine.yaml",), limit_s=LIMIT_S)


def _override(name: str, *words: str, names: tuple[str, ...] = ()) -> Case:
    def make(place: Place) -> list[object]:
        write_data(place / "data")
        return ["check", write_recipe(place / "mine.yaml"), *words]

    shown = names or tuple(word.partition("=")[0] for word in words)
    return Case(f"override-{name}", make, shown, right=_no_faults, limit_s=LIMIT_S)


def _refused_override(name: str, *words: str, names: tuple[str, ...] = ()) -> Case:
    case = _override(name, *words, names=names)
    return Case(case.name, case.make, case.names, limit_s=LIMIT_S)


NO_FILES = [
    _not_a_file("missing", lambda path: None),
    _not_a_file("folder", Path.mkdir),
    _not_a_file("named-pipe", os.mkfifo),
    _not_a_file("link-to-a-device", lambda path: path.symlink_to("/dev/zero")),
    _not_a_file("link-to-itself", lambda path: path.symlink_to("mine.yaml")),
    _not_a_file("an-image", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))),
]
OVERRIDES = [
    _refused_override("no-key", "=5", names=("=5",)),
    _refused_override("no-value-sign", "train.steps", names=("train.steps",)),
    _refused_override("dots-alone", "...=5", names=("...",)),
    _refused_override("empty-part", "train..steps=5", names=("train",)),
    _refused_override("into-a-number", "train.steps.more=5", names=("train.steps",)),
    _refused_override("a-section", "train=5", names=("train",)),
    _refused_override("deep", ".".join(["a"] * 2000) + "=5", names=("a.a",)),
    _refused_override("self", "train.steps=&a [*a]", names=("train.steps",)),
    _refused_override("bomb", "train.steps=" + "[" * 20_000, names=("train.steps",)),
    _refused_override("no-int", "train.steps=!!int abc", names=("train.steps",)),
    _refused_override("date", "train.steps=2001-99-99", names=("train.steps",)),
    _refused_override("digits", "train.steps=" + "9" * 5000, names=("train.steps",)),
    _refused_override("markup", "train.steps=[/red]", names=("train.steps",)),
    _refused_override("markup-key", "[/red]=5", names=("[/red]",)),
    _refused_override("infinity", "train.lr=.inf", names=("train.lr",)),
    _refused_override("overflow", "train.lr=1e999", names=("train.lr",)),
    _refused_override("not-utf8", os.fsdecode(b"data.root=stra\xdfe"), names=("data.root",)),
    _override("exponent", "train.lr=4e-3"),
]  # fmt: skip


@pytest.mark.parametrize("case", [*ODD, *HOSTILE, *NO_FILES, *OVERRIDES], ids=lambda case: case.name)
def test_recipe(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
