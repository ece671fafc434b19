"""Sidecars of engines: an engine that is not what its sidecar says is named before a library sees it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.corpus.judging import Case, Place
from tests.corpus.kits import metadata, scene
from tests.corpus.launching import Ended
from tests.corpus.spoiling import NASTY, keys, replaced, without

CONTENT = b"engine of a library that is not installed" * 100
Spoil = Callable[[Path], object]
"""Changes the engine, at the path it is given, or the sidecar beside it."""


def sidecar() -> dict[str, Any]:
    """What fits `CONTENT`."""
    shape = [1, 64, 64]
    return {
        "format": 1, "engine": "tensorrt", "library_version": "10.9.0.34", "precision": "fp32", "graph": "model.onnx",
        "graph_sha256": {"model.onnx": "0" * 64}, "engine_sha256": hashlib.sha256(CONTENT).hexdigest(),
        "engine_bytes": len(CONTENT), "targets": ["8.6"], "gpu": "NVIDIA RTX A4000", "driver": "550",
        "workspace_bytes": None,
        "profile": {"min": shape, "opt": shape, "max": shape}, "version_compatible": False,
        "hardware_compatible": False,
        "layers": {"evidence": "engine", "heavy": {"fp32": 3}, "layers": {"conv": {"fp32": 3}}, "wider": []},
        "build_seconds": 1.0, "metadata": metadata().model_dump(mode="json"),
    }  # fmt: skip


def _predict(spoil: Spoil) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        engine = place / "x.engine"
        engine.write_bytes(CONTENT)
        (place / "x.json").write_text(json.dumps(sidecar()))
        spoil(engine)
        Image.fromarray(scene(8)[0]).save(place / "image.png")
        return ["predict", engine, place / "image.png", "--out", place.output("out")]

    return make


def refuses(name: str, spoil: Spoil) -> Case:
    return Case(name, _predict(spoil), ("x.engine", "x.json"))


def _tree(change: Callable[[Any], Any]) -> Spoil:
    return lambda engine: engine.with_suffix(".json").write_text(json.dumps(change(sidecar())))


def _beside(make: Callable[[Path], object]) -> Spoil:
    def spoil(engine: Path) -> None:
        engine.with_suffix(".json").unlink()
        make(engine.with_suffix(".json"))

    return spoil


def _swap(make: Callable[[Path], object]) -> Spoil:
    def spoil(engine: Path) -> None:
        engine.unlink()
        make(engine)

    return spoil


def _spoilt() -> Iterator[Case]:
    nasty = list(NASTY)
    places = [key for key in keys(sidecar()) if key[0] != "metadata" or len(key) < 3]
    for number, key in enumerate(places[::2]):
        name = nasty[(5 * number) % len(nasty)]
        dotted = ".".join(map(str, key))
        yield refuses(f"{dotted}={name}", _tree(lambda tree, key=key, name=name: replaced(tree, key, NASTY[name])))
    for key in places:
        if len(key) == 1 and key[0] in ("engine", "engine_sha256", "profile", "layers", "metadata"):
            yield refuses(f"{key[0]}-missing", _tree(lambda tree, key=key: without(tree, key)))


CASES = [
    *_spoilt(),
    refuses("plain", lambda engine: None),
    refuses("engine-a-byte-more", lambda engine: engine.write_bytes(CONTENT + b"x")),
    refuses("engine-changed", lambda engine: engine.write_bytes(CONTENT.replace(b"library", b"Library", 1))),
    refuses("engine-empty", lambda engine: engine.write_bytes(b"")),
    refuses("engine-gone", Path.unlink),
    refuses("engine-a-folder", _swap(Path.mkdir)),
    refuses("engine-a-named-pipe", _swap(os.mkfifo)),
    refuses("engine-a-link-to-a-device", _swap(lambda path: path.symlink_to("/dev/zero"))),
    refuses("sidecar-gone", _beside(lambda path: None)),
    refuses("sidecar-empty", _beside(Path.touch)),
    refuses("sidecar-a-folder", _beside(Path.mkdir)),
    refuses("sidecar-a-named-pipe", _beside(os.mkfifo)),
    refuses("sidecar-a-link-to-a-device", _beside(lambda path: path.symlink_to("/dev/zero"))),
    refuses("sidecar-a-list", _tree(lambda tree: [tree])),
    refuses("sidecar-a-key-more", _tree(lambda tree: tree | {"more": 1})),
    refuses("sidecar-torn", lambda engine: os.truncate(engine.with_suffix(".json"), 300)),
    refuses("sidecar-nested-deeply", _beside(lambda path: path.write_text("[" * 50_000 + "]" * 50_000))),
    refuses("sidecar-not-utf8", _beside(lambda path: path.write_bytes(b'{"\xff": 1}'))),
    refuses("profile-turned", _tree(lambda tree: replaced(tree, ("profile", "min"), [9, 999, 999]))),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sidecar(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
