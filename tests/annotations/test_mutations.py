"""Annotations with something else at some place: always an error that is told or a result, never a traceback."""

import copy
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from tests.annotations.examples import HAND_WRITTEN

TIMES = int(os.environ.get("PROTOSEG_MUTATIONS", "15"))
ODD: list[Any] = [
    None, True, 0, -1, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\0", "../..", "\ud800", [], [[]], {},
    {"a": 1}, [1, 2], [[1, 2], [3]], [None] * 9, {"id": []}, "9" * 400, [[[]]], "/", "%", 2**63,
]  # fmt: skip


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container with every key."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from places(value)


def changed(document: Any, choice: random.Random) -> Any:
    """One or two values replaced, left out or doubled."""
    tree = copy.deepcopy(document)
    for _ in range(choice.randint(1, 2)):
        there = list(places(tree))
        if not there:
            return choice.choice(ODD)
        container, key = choice.choice(there)
        what = choice.random()
        if what < 0.15:
            del container[key]
        elif what < 0.25 and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        else:
            container[key] = copy.deepcopy(choice.choice(ODD))
    return tree


def run(source: Path, out: Path, *arguments: str) -> None:
    result = CliRunner().invoke(cli, ["convert", str(source), "--out", str(out), "--workers", "0", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    if (report := out / "report.json").exists():
        assert bool(json.loads(report.read_bytes())["records"]["bad"]) == (result.exit_code == 1)
        report.unlink()


@pytest.mark.parametrize("format_name", ["coco", "labelme", "label-studio", "supervisely", "cityscapes"])
def test_values_of_json(tmp_path: Path, format_name: str) -> None:
    choice = random.Random(format_name)
    source = HAND_WRITTEN[format_name][0](tmp_path / "in")
    file = source if source.is_file() else next(path for path in source.rglob("*.json") if path.name != "meta.json")
    document = json.loads(file.read_text())
    for _ in range(TIMES):
        file.write_text(json.dumps(changed(document, choice)))
        run(source, tmp_path / "out", "--format", format_name)


@pytest.mark.parametrize("format_name", ["cvat", "yolo", "voc", "color-masks"])
def test_characters_of_text(tmp_path: Path, format_name: str) -> None:
    choice = random.Random(format_name)
    source = HAND_WRITTEN[format_name][0](tmp_path / "in")
    files = [path for path in sorted(source.rglob("*")) if path.suffix in (".xml", ".txt", ".csv", ".yaml")]
    for _ in range(TIMES):
        file = choice.choice(files)
        text = file.read_text()
        words = list(re.finditer(r"[\w.]+", text))
        word = choice.choice(words)
        odd = choice.choice(["", "nan", "-1", "1e999", "9" * 30, "x", "\0", "<", "ä", ",", ";", "::", "\n", "[", '"'])
        file.write_text(text[: word.start()] + odd + text[word.end() :])
        run(source, tmp_path / "out", "--format", format_name)
        file.write_text(text)
