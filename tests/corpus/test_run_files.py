"""Files of a run, torn or changed by hand: the run goes on to what it would have come to, or names the file."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.corpus.judging import Case, Place
from tests.corpus.kits import change_json, interrupted
from tests.corpus.launching import Ended

Spoil = Callable[[Path], object]


def _resume(spoil: Spoil) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        run = interrupted(place.kits.run(), place.output("run"))
        spoil(run)
        return ["train", "--run", run, "--resume"]

    return make


def _is_the_same(place: Place, ended: Ended) -> None:
    """What an uninterrupted run had come to; its figures are whole and in order."""
    run, twin = place / "run", place.kits.run()
    assert (run / "last.safetensors").read_bytes() == (twin / "last.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert json.loads((run / "summary.json").read_text())["steps"] == 4


def passes(name: str, spoil: Spoil) -> Case:
    return Case(name, _resume(spoil), right=_is_the_same, must_pass=True)


def either(name: str, file: str, spoil: Spoil) -> Case:
    return Case(name, _resume(spoil), (file,), right=_is_the_same)


def refuses(name: str, file: str, spoil: Spoil) -> Case:
    return Case(name, _resume(spoil), (file,))


CONTENTS = {
    "empty": b"",
    "torn": b'{"steps":',
    "a-list": b"[]",
    "a-map": b"{}",
    "a-number": b"5\n",
    "null": b"null\n",
    "text": b'"word"\n',
    "other-keys": b'{"a": 1}\n',
    "not-utf8": b"\xff\xfe\n",
    "zeros": bytes(1000),
    "nested-deeply": b"[" * 20_000 + b"]" * 20_000,
    "digits": b'{"step": ' + b"9" * 5000 + b"}\n",
    "nan": b'{"kind": "train", "step": NaN}\n',
    "steps-of-text": b'{"kind": "train", "step": "2"}\n',
}
"""What a file may hold after an accident, or an editor."""

FILES = ("images.json", "metrics.jsonl", "unreadable.jsonl", "summary.json", "labeled.txt")


def _contents() -> Iterator[Case]:
    for number, file in enumerate(FILES[:4]):
        for name in [*CONTENTS][number % 2 :: 2] + ["not-utf8", "a-number"][number % 2 :: 2]:
            yield either(f"{file}-{name}", file, _write(file, CONTENTS[name]))
    for name in ("empty", "not-utf8", "zeros"):
        yield either(f"labeled.txt-{name}", "labeled.txt", _write("labeled.txt", CONTENTS[name]))
    for file in (*FILES, "recipe.yaml"):
        named = "/run" if file == "recipe.yaml" else file  # a run without a recipe is none
        yield either(f"{file}-a-named-pipe", named, lambda run, file=file: _replaced(run / file, os.mkfifo))
    for file in FILES[:3]:
        yield either(f"{file}-a-folder", file, lambda run, file=file: _replaced(run / file, Path.mkdir))
        yield either(f"{file}-a-link-to-a-device", file, lambda run, file=file: _replaced(run / file, _zero))


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink(missing_ok=True)
    make(path)


def _write(file: str, content: bytes) -> Spoil:
    return lambda run: (run / file).write_bytes(content)


def _labelled(**values: object) -> Spoil:
    return lambda run: change_json(run / "images.json", lambda tree: tree["labelled"].update(values))


def _a_file(folder: str) -> Spoil:
    def spoil(run: Path) -> None:
        shutil.rmtree(run / folder)
        (run / folder).write_text("x")

    return spoil


def _best(make: Callable[[Path], object]) -> Spoil:
    return lambda run: _replaced(run / "best.safetensors", make)


def _zero(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _edit(file: str, old: str, new: str) -> Spoil:
    def spoil(run: Path) -> None:
        text = (run / file).read_text()
        assert old in text
        (run / file).write_text(text.replace(old, new, 1))

    return spoil


def _append(file: str, content: bytes) -> Spoil:
    def spoil(run: Path) -> None:
        with (run / file).open("ab") as target:
            target.write(content)

    return spoil


def _moved_out(name: str) -> Spoil:
    """A folder of the run as a link to one outside of it."""

    def spoil(run: Path) -> None:
        (run.parent / "elsewhere").mkdir()
        target = run.parent / "elsewhere" / name
        shutil.move(run / name, target)
        (run / name).symlink_to(target)

    return spoil


ODD = [
    passes("plain", lambda run: None),
    passes("metrics-torn-last-line", _append("metrics.jsonl", b'{"kind": "train", "st')),
    passes("scratch-of-a-process-gone", _write(".best.safetensors.0123456789ab.tmp", b"x")),
    passes("scratch-of-an-older-version", _write(".best.safetensors.17.tmp", b"x")),
    passes("scratch-among-checkpoints", _write("checkpoints/.step-00000004.pt.0123456789ab.tmp", b"x")),
    passes("a-foreign-file", _write("notes.txt", b"mine")),
    passes("the-tensorboard-folder-gone", lambda run: shutil.rmtree(run / "tensorboard")),
    either("metrics-gone", "metrics.jsonl", lambda run: (run / "metrics.jsonl").unlink()),
    either("metrics-line-in-the-middle-torn", "metrics.jsonl", _edit("metrics.jsonl", '"step": 1', '"st\n{"step": 1')),
    either("a-checkpoint-of-another-name", "checkpoints", _write("checkpoints/step-9.pt", b"x")),
    refuses("images-gone", "images.json", lambda run: (run / "images.json").unlink()),
    refuses("images-other-count", "images", _edit("images.json", '"count": 3', '"count": 4')),
    refuses("images-other-digest", "images", _labelled(sha256="0" * 64)),
    refuses("images-count-of-text", "images", _labelled(count=[])),
    refuses("recipe-empty", "recipe.yaml", _write("recipe.yaml", b"")),
    refuses("recipe-torn", "recipe.yaml", lambda run: os.truncate(run / "recipe.yaml", 300)),
    refuses("recipe-noise", "recipe.yaml", _write("recipe.yaml", bytes(range(256)))),
    refuses("recipe-of-another-rate", "recipe.yaml", _edit("recipe.yaml", "lr: 0.004", "lr: 0.04")),
    refuses("recipe-of-other-steps", "recipe.yaml", _edit("recipe.yaml", "steps: 4", "steps: 40")),
    refuses("recipe-of-another-seed", "recipe.yaml", _edit("recipe.yaml", "  seed: 0", "  seed: 1")),
    refuses("recipe-of-another-threshold", "recipe.yaml", _edit("recipe.yaml", "threshold: 0.0", "threshold: 0.5")),
    refuses("recipe-of-other-classes", "recipe.yaml", _edit("recipe.yaml", "- red", "- green")),
    refuses("recipe-of-another-backbone", "recipe.yaml", _edit("recipe.yaml", "test_resnet", "test_vit")),
    refuses("recipe-with-a-key-more", "recipe.yaml", _append("recipe.yaml", b"more: 1\n")),
    refuses("checkpoints-a-file", "checkpoints", _a_file("checkpoints")),
    either("tensorboard-a-file", "tensorboard", _a_file("tensorboard")),
    either("checkpoints-a-link-out", "checkpoints", _moved_out("checkpoints")),
    either("tensorboard-a-link-out", "tensorboard", _moved_out("tensorboard")),
]  # fmt: skip


@pytest.mark.parametrize("case", [*_contents(), *ODD], ids=lambda case: case.name)
def test_run_file(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes


def _read_only(name: str, verb: Callable[[Place, Path], list[object]], file: str, spoil: Spoil) -> Case:
    """Verbs that read a finished run."""

    def make(place: Place) -> list[object]:
        run = shutil.copytree(place.kits.run(), place / "run")
        spoil(run)
        return verb(place, run)

    return Case(name, make, (file,))


def _predict(place: Place, run: Path) -> list[object]:
    return ["predict", run, place.kits.data() / "val" / "images", "--out", place.output("out"), "--device", "cpu"]


def _evaluate(place: Place, run: Path) -> list[object]:
    return ["evaluate", run, "--recipe", run / "recipe.yaml", "--device", "cpu"]


def _distill(place: Place, run: Path) -> list[object]:
    return ["distill", run, "--run", place.output("student")]


def _export(place: Place, run: Path) -> list[object]:
    return ["export", run, "--bundle", place.output("bundle")]


FINISHED = [
    *(
        _read_only(f"predict-best-{name}", _predict, "best.safetensors", _best(make))
        for name, make in {
            "gone": lambda path: None, "a-folder": Path.mkdir, "a-named-pipe": os.mkfifo, "empty": Path.touch,
            "a-link-to-itself": lambda path: path.symlink_to(path.name),
        }.items()
    ),
    _read_only("evaluate-recipe-noise", _evaluate, "recipe.yaml", _write("recipe.yaml", b"\0\xff")),
    _read_only("evaluate-recipe-of-more-classes", _evaluate, "class", _edit("recipe.yaml", "- red", "- red\n  - more")),
    _read_only("distill-recipe-gone", _distill, "/run", lambda run: (run / "recipe.yaml").unlink()),
    _read_only("export-recipe-torn", _export, "recipe.yaml", lambda run: os.truncate(run / "recipe.yaml", 300)),
    _read_only("export-data-gone", _export, "data.", _edit("recipe.yaml", "root: ", "root: /nowhere")),
    _read_only("export-best-cut", _export, "best.safetensors", lambda run: os.truncate(run / "best.safetensors", 9000)),
]  # fmt: skip


@pytest.mark.parametrize("case", FINISHED, ids=lambda case: case.name)
def test_finished_run(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
