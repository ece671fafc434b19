"""Manifests of bundles: what they name lies in the bundle and is what was verified, or the bundle is refused."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.corpus.judging import Case, Place
from tests.corpus.kits import change_json, mirror_graph, scene
from tests.corpus.launching import Ended
from tests.corpus.spoiling import NASTY, cuts, replaced, without

IMAGE = scene(8)[0]
Spoil = Callable[[Path], object]
"""Changes a copy of the bundle."""


def _predict(spoil: Spoil) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        bundle = shutil.copytree(place.kits.bundle(), place / "bundle")
        spoil(bundle)
        Image.fromarray(IMAGE).save(place / "image.png")
        return ["predict", bundle, place / "image.png", "--out", place.output("out"), "--device", "cpu"]

    return make


def _is_right(place: Place, ended: Ended) -> None:
    with Image.open(place / "out" / "index" / "image.png") as image:
        np.testing.assert_array_equal(np.asarray(image), place.kits.predicted(IMAGE))


def _and_says_unverified(place: Place, ended: Ended) -> None:
    _is_right(place, ended)
    assert b"verif" in ended.err, "said nothing"


def reads(name: str, spoil: Spoil) -> Case:
    return Case(name, _predict(spoil), right=_is_right, must_pass=True)


def either(name: str, spoil: Spoil) -> Case:
    return Case(name, _predict(spoil), ("bundle/",), right=_is_right)


def unverified(name: str, spoil: Spoil) -> Case:
    """Refused, or done with the word that nobody has verified it."""
    return Case(name, _predict(spoil), ("bundle",), right=_and_says_unverified)


def refuses(name: str, spoil: Spoil, says: str = "") -> Case:
    return Case(name, _predict(spoil), (says,) if says else ("bundle/", "bundle has"))


def _manifest(change: Callable[[Any], object]) -> Spoil:
    return lambda bundle: change_json(bundle / "manifest.json", change)


def _text(change: Callable[[str], str | bytes]) -> Spoil:
    def spoil(bundle: Path) -> None:
        path = bundle / "manifest.json"
        changed = change(path.read_text())
        path.write_bytes(changed.encode() if isinstance(changed, str) else changed)

    return spoil


_SECTIONS = (
    "format", "network", "classes", "masks", "input", "outputs", "graphs", "engines", "provenance", "files",
    "verification",
)  # fmt: skip
_VALUES = (
    "network.parameters", "classes.names", "classes.names.0", "classes.colors", "classes.colors.0.0", "classes.binary",
    "masks.ignore_index", "masks.value_map", "input.name", "input.dtype", "input.shape", "input.fixed_size",
    "input.mean", "input.std.0", "input.input_scale", "outputs.0.name", "outputs.0.dtype", "outputs.0.shape",
    "graphs.fp32",
    "graphs.fp32.file", "graphs.fp32.files", "graphs.fp32.files.0", "graphs.fp32.opset", "graphs.fp32.conversion",
    "provenance.training", "provenance.versions", "verification.passed", "verification.stages", "verification.images",
    "verification.stages.0.status", "verification.stages.0.artefact", "verification.stages.0.against",
    "verification.stages.0.agreement_percent",
)  # fmt: skip


def _spoilt() -> Iterator[Case]:
    nasty = list(NASTY)
    for number, section in enumerate(_SECTIONS):
        for offset in (0, 7):
            name = nasty[(3 * number + offset) % len(nasty)]
            yield either(f"{section}={name}", _replace((section,), name))
        yield either(f"{section}-missing", _leave_out(section))
    for number, dotted in enumerate(_VALUES):
        key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
        name = nasty[(5 * number) % len(nasty)]
        yield either(f"{dotted}={name}", _replace(key, name))


def _leave_out(section: str) -> Spoil:
    return _text(lambda text: _dump(without(json.loads(text), (section,))))


def _stage(**values: str) -> Spoil:
    return _manifest(lambda tree: tree["verification"]["stages"][0].update(values))


def _engine(**values: str) -> Spoil:
    """A manifest that names an engine."""
    entry = {
        "file": "engines/x.engine",
        "sidecar": "engines/x.json",
        "precision": "fp32",
        "graph": "model.onnx",
        "engine": "tensorrt",
    }
    return _manifest(lambda tree: tree["engines"].update(x=entry | values))


def _replace(key: tuple[Any, ...], name: str) -> Spoil:
    return _text(lambda text: _dump(replaced(json.loads(text), key, NASTY[name])))


def _dump(tree: Any) -> str:
    return json.dumps(tree)


def _digest(path: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


def _names(file: str, *, listed: bool = True) -> Callable[[Path], None]:
    """The fp32 graph is said to be `file`, with its checksum."""

    def spoil(bundle: Path) -> None:
        def change(tree: Any) -> None:
            tree["graphs"]["fp32"].update(file=file, files=[file] if listed else [])
            tree["files"][file] = _digest(bundle / file)

        change_json(bundle / "manifest.json", change)

    return spoil


def _outside(bundle: Path) -> Path:
    """The graph moved out of its bundle."""
    (bundle.parent / "elsewhere").mkdir()
    return Path(shutil.move(bundle / "model.onnx", bundle.parent / "elsewhere" / "model.onnx"))


def _dotdot(bundle: Path) -> None:
    _outside(bundle)
    _names("../elsewhere/model.onnx")(bundle)


def _dotdot_inside(bundle: Path) -> None:
    _outside(bundle)
    (bundle / "a").mkdir()
    _names("a/../../elsewhere/model.onnx")(bundle)


def _absolute(bundle: Path) -> None:
    _names(str(_outside(bundle)))(bundle)


def _linked(bundle: Path) -> None:
    (bundle / "model.onnx").symlink_to(_outside(bundle))


def _linked_folder(bundle: Path) -> None:
    (bundle / "a").symlink_to(_outside(bundle).parent)
    _names("a/model.onnx")(bundle)


def _copied(bundle: Path) -> None:
    shutil.copy(bundle / "model.onnx", bundle / "b.onnx")
    _names("b.onnx")(bundle)


def _another_graph(bundle: Path) -> None:
    onnx.save(mirror_graph(), bundle / "model.onnx")


def _another_graph_with_its_checksum(bundle: Path) -> None:
    _another_graph(bundle)
    _names("model.onnx")(bundle)


def _weights(value: float) -> Spoil:
    """Numbers that are none in the graph, its checksum made right."""

    def spoil(bundle: Path) -> None:
        model = onnx.load(bundle / "model.onnx")
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.reshape(-1)[0] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        onnx.save(model, bundle / "model.onnx")
        _names("model.onnx")(bundle)

    return spoil


def _grown(bundle: Path) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")


def _flipped(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(content)


def _swap(name: str, make: Callable[[Path], object]) -> Spoil:
    def spoil(bundle: Path) -> None:
        (bundle / name).unlink()
        make(bundle / name)

    return spoil


FILES = [
    reads("plain", lambda bundle: None),
    either("a-foreign-file", lambda bundle: (bundle / "notes.txt").write_text("mine")),
    refuses("graph-in-the-folder-above", _dotdot),
    refuses("graph-in-the-folder-above-by-a-detour", _dotdot_inside),
    refuses("graph-by-an-absolute-path", _absolute),
    refuses("graph-by-a-link-out", _linked),
    refuses("graph-by-a-linked-folder", _linked_folder),
    unverified("files-of-a-graph-empty", _names("model.onnx", listed=False)),
    unverified("a-copy-of-the-graph", _copied),
    unverified("never-verified", _manifest(lambda tree: tree.update(verification=None))),
    unverified("verification-failed", _stage(status="failed")),
    unverified("verification-of-something-else", _stage(artefact="x.onnx")),
    unverified("verification-against-itself", _stage(against="onnx fp32")),
    refuses("graph-exchanged", _another_graph),
    refuses("graph-exchanged-with-its-checksum", _another_graph_with_its_checksum),
    refuses("graph-with-nan-and-its-checksum", _weights(float("nan"))),
    refuses("graph-with-infinity-and-its-checksum", _weights(float("inf"))),
    refuses("graph-a-byte-longer", _grown),
    refuses("graph-a-bit-flipped", _flipped),
    refuses("graph-cut", lambda bundle: os.truncate(bundle / "model.onnx", 5000)),
    refuses("graph-missing", lambda bundle: (bundle / "model.onnx").unlink()),
    refuses("graph-empty", _swap("model.onnx", Path.touch)),
    refuses("graph-a-folder", _swap("model.onnx", Path.mkdir)),
    refuses("graph-a-named-pipe", _swap("model.onnx", os.mkfifo), "bundle/model.onnx is not a regular file"),
    refuses("graph-a-link-to-a-device", _swap("model.onnx", lambda path: path.symlink_to("/dev/zero"))),
    refuses("graph-not-listed", _manifest(lambda tree: tree["files"].pop("model.onnx"))),
    refuses("checksum-of-zeros", _manifest(lambda tree: tree["files"]["model.onnx"].update(sha256="0" * 64))),
    refuses("checksum-of-capitals", _manifest(lambda tree: tree["files"]["model.onnx"].update(sha256="[/red]"))),
    refuses("size-lies", _manifest(lambda tree: tree["files"]["model.onnx"].update(bytes=5))),
    refuses("no-fp32-graph", _manifest(lambda tree: tree["graphs"].update(int8=tree["graphs"].pop("fp32")))),
    refuses("the-manifest-as-graph", _names("manifest.json")),
    refuses("the-reference-as-graph", _names("reference.safetensors")),
    refuses("the-bundle-as-graph", _manifest(lambda tree: tree["graphs"]["fp32"].update(file=".", files=["."]))),
    refuses("manifest-empty", _text(lambda text: "")),
    refuses("manifest-a-list", _text(lambda text: "[]")),
    refuses("manifest-text", _text(lambda text: "no manifest")),
    refuses("manifest-nested-deeply", _text(lambda text: "[" * 100_000 + "]" * 100_000)),
    refuses("manifest-a-key-more", _manifest(lambda tree: tree.update(more=1))),
    refuses("manifest-of-the-future", _manifest(lambda tree: tree.update(format=99))),
    either("manifest-utf-16", _text(lambda text: text.encode("utf-16"))),
    refuses("manifest-latin-1", _text(lambda text: text.replace('"red"', '"röt"').encode("latin-1"))),
    refuses("manifest-a-folder", _swap("manifest.json", Path.mkdir)),
    refuses("manifest-a-named-pipe", _swap("manifest.json", os.mkfifo)),
    refuses("manifest-a-link-to-a-device", _swap("manifest.json", lambda path: path.symlink_to("/dev/zero"))),
    *(refuses(f"manifest-cut-to-{size}", _text(lambda text, size=size: text[:size])) for size in cuts(2000, 4)),
]  # fmt: skip


@pytest.mark.parametrize("case", [*_spoilt(), *FILES], ids=lambda case: case.name)
def test_manifest(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes


def _verify(name: str, spoil: Spoil, *words: str) -> Case:
    """What is verified is what the bundle holds, and its verdict is not written elsewhere."""

    def make(place: Place) -> list[object]:
        bundle = shutil.copytree(place.kits.bundle(), place.output("bundle"))
        spoil(bundle)
        return ["verify", bundle, "--images", place.kits.data() / "val" / "images", *words]

    return Case(f"verify-{name}", make, ("bundle",))


VERIFIED = [
    _verify("graph-a-bit-flipped", _flipped),
    _verify("graph-in-the-folder-above", _dotdot),
    _verify("reference-gone", lambda bundle: (bundle / "reference.safetensors").unlink()),
    _verify("reference-cut", lambda bundle: os.truncate(bundle / "reference.safetensors", 5000)),
    _verify("reference-a-link-to-a-device", _swap("reference.safetensors", lambda path: path.symlink_to("/dev/zero"))),
    _verify("graph-with-nan-and-its-checksum", _weights(float("nan"))),
    _verify("another-graph-with-its-checksum", _another_graph_with_its_checksum),
    _verify("manifest-torn", lambda bundle: os.truncate(bundle / "manifest.json", 500)),
    _verify("engine-in-the-folder-above", _engine(file="../e.engine")),
    _verify("engine-gone", _engine()),
]  # fmt: skip


@pytest.mark.parametrize("case", VERIFIED, ids=lambda case: case.name)
def test_verify(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
