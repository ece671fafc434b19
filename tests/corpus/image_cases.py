"""Cases of one image between two good ones, which are done whatever becomes of it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.corpus.judging import Case, Place
from tests.corpus.kits import mirrored, scene
from tests.corpus.launching import Ended

GOOD = scene(8)[0]
Write = Callable[[Path], object]


def predicting(file: str, write: Write) -> Callable[[Place], list[object]]:
    """`file` between two good images."""

    def make(place: Place) -> list[object]:
        (place / "in").mkdir()
        for name in ("a-good.png", "z-good.png"):
            Image.fromarray(GOOD).save(place / "in" / name)
        (place / "in" / file).parent.mkdir(exist_ok=True)  # a name with markup has a slash
        write(place / "in" / file)
        return ["predict", place.kits.mirror(), place / "in", "--out", place.output("out")]

    return make


def index_of(place: Place, name: str) -> NDArray[np.uint8]:
    """The class map that was written for an image."""
    with Image.open(place / "out" / "index" / name) as image:
        return np.asarray(image)


def others_are_done(place: Place, ended: Ended) -> None:
    """The two good images have their pictures, and one failure is listed."""
    for name in ("a-good.png", "z-good.png"):
        np.testing.assert_array_equal(index_of(place, name), mirrored(GOOD))
    for kind in ("index", "color", "overlay"):
        assert len(list((place / "out" / kind).iterdir())) == 2, "more than the good images were written"
    failures = list((place / "out").rglob("failures.jsonl"))
    assert failures, "no failures.jsonl"
    assert len([json.loads(line) for line in failures[0].read_text(encoding="utf-8").splitlines()]) == 1


def shows(file: str, expected: NDArray[np.uint8] | None) -> Callable[[Place, Ended], None]:
    """All three are done, the one in the middle as `expected`."""

    def check(place: Place, ended: Ended) -> None:
        for name in ("a-good.png", "z-good.png"):
            np.testing.assert_array_equal(index_of(place, name), mirrored(GOOD))
        found = index_of(place, str(Path(file).with_suffix(".png")))
        if expected is not None:
            np.testing.assert_array_equal(found, mirrored(expected))

    return check


def containing(content: bytes) -> Write:
    return lambda path: path.write_bytes(content)


def reads(name: str, file: str, content: bytes, expected: NDArray[np.uint8]) -> Case:
    """It must be read, as `expected`."""
    return Case(name, predicting(file, containing(content)), right=shows(file, expected), must_pass=True)


def either(name: str, file: str, content: bytes, expected: NDArray[np.uint8] | None = None) -> Case:
    """It is read as `expected`, or named; without `expected` it is read as anything of some size."""
    return Case(
        name, predicting(file, containing(content)), (file,), right=shows(file, expected), after=others_are_done
    )


def refuses(name: str, file: str, content: bytes | Write) -> Case:
    """It is named, and the others are done."""
    write = containing(content) if isinstance(content, bytes) else content
    return Case(name, predicting(file, write), (file,), after=others_are_done)
