"""Network files: headers and weights that lie. A network that passes is the one that was saved."""

import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from tests.corpus.judging import Case, Place
from tests.corpus.kits import NAMES, scene, write_network
from tests.corpus.launching import Ended
from tests.corpus.spoiling import flipped, keys, one_each, without

IMAGE = scene(8)[0]
KEY = "protoseg_network"
Spoil = Callable[[Path], object]


def _predict(spoil: Spoil) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        network = write_network(place / "net.safetensors")
        spoil(network)
        Image.fromarray(IMAGE).save(place / "image.png")
        return ["predict", network, place / "image.png", "--out", place.output("out"), "--device", "cpu"]

    return make


def _is_a_class_map(place: Place, ended: Ended) -> None:
    with Image.open(place / "out" / "index" / "image.png") as image:
        index = np.asarray(image)
    assert index.shape == IMAGE.shape[:2]
    assert index.max() < len(NAMES)


def either(name: str, spoil: Spoil) -> Case:
    return Case(name, _predict(spoil), ("net.safetensors",), right=_is_a_class_map)


def refuses(name: str, spoil: Spoil, says: str = "net.safetensors") -> Case:
    return Case(name, _predict(spoil), (says,))


def _with_header(change: Callable[[Any], Any]) -> Spoil:
    """The header of the network replaced by what `change` makes of it: a tree, or text."""

    def spoil(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = json.loads(file.metadata()[KEY])
        new = change(header)
        save_file(tensors, path, metadata={KEY: new if isinstance(new, str) else json.dumps(new)})

    return spoil


def _with_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata()
        change(tensors)
        save_file(tensors, path, metadata=metadata)

    return spoil


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in tensors.items() if tensor.ndim == 4)


def _fill(value: float, *, all_of_it: bool) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items() if all_of_it else [(_first(tensors), tensors[_first(tensors)])]:
            if tensor.is_floating_point():
                (tensor if all_of_it else tensor.view(-1)[:1]).fill_(value)
                tensors[name] = tensor

    return change


def _cast(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[_first(tensors)] = tensors[_first(tensors)].to(dtype)

    return change


def _tree() -> Any:
    """The header of a healthy network."""
    with tempfile.TemporaryDirectory() as folder:
        network = write_network(Path(folder) / "net.safetensors")
        with safe_open(network, framework="pt") as file:
            return json.loads(file.metadata()[KEY])


def _raw_header(text: bytes, *, length: int | None = None, data: bytes = b"") -> Spoil:
    size = len(text) if length is None else length
    return lambda path: path.write_bytes(struct.pack("<Q", size) + text + data)


_TREE = _tree()
_ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def _entry(**changes: Any) -> Spoil:
    return _raw_header(json.dumps({"head.weight": _ENTRY | changes}).encode(), data=bytes(8))


def _rewritten(change: Callable[[bytes], bytes]) -> Spoil:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def _spoilt_headers() -> Iterator[Case]:
    for name, tree in one_each(_TREE, seed=5, count=32):
        yield either(f"header-{name}", _with_header(lambda _, tree=tree: tree()))
    for key in keys(_TREE):
        if len(key) < 3 and key[0] != "provenance":
            yield either(
                f"header-without-{'.'.join(map(str, key))}", _with_header(lambda _, key=key: without(_TREE, key))
            )


def _changed(section: str, values: dict[str, Any]) -> Spoil:
    return _with_header(lambda tree: tree | {section: tree[section] | values})


def _a_value_nested_deeply(tree: Any) -> str:
    return json.dumps(tree)[:-1] + ', "x": ' + '{"a":' * 5000 + "1" + "}" * 5001


def _a_number_of_5000_digits(tree: Any) -> str:
    return json.dumps(tree).replace('"ignore_index": 255', '"ignore_index": ' + "9" * 5000)


def _shorten(tensors: dict[str, torch.Tensor]) -> None:
    tensors[_first(tensors)] = tensors[_first(tensors)][:-1].clone()


def _cut(size: int) -> Spoil:
    return _rewritten(lambda content: content[:size])


def _flip(seed: int) -> Spoil:
    return _rewritten(lambda content: flipped(content[:4000], seed) + content[4000:])


HEADERS = [
    *_spoilt_headers(),
    refuses("header-empty", _with_header(lambda _: "")),
    refuses("header-no-json", _with_header(lambda _: "{")),
    refuses("header-a-list", _with_header(lambda _: [])),
    refuses("header-null", _with_header(lambda _: None)),
    refuses("header-nested-deeply", _with_header(lambda _: "[" * 50_000 + "]" * 50_000)),
    refuses("header-value-nested-deeply", _with_header(_a_value_nested_deeply)),
    refuses("header-of-5000-digits", _with_header(_a_number_of_5000_digits)),
    refuses("channels-of-billions", _changed("model", {"decoder_channels": 2**31})),
    refuses("backbone-unknown", _changed("model", {"backbone": "resnet_of_mine"})),
    refuses("backbone-a-path", _changed("model", {"backbone": "../../etc/passwd"})),
    refuses("backbone-of-a-hub", _changed("model", {"backbone": "hf-hub:nobody/nothing"})),
    refuses("another-backbone", _changed("model", {"backbone": "test_vit"})),
    refuses("another-decoder", _changed("model", {"decoder": "fpn"})),
    refuses("binary-that-is-none", _changed("classes", {"binary": True})),
    refuses("classes-too-many", _changed("classes", {"names": list("abcd"), "colors": [[0, 0, 0]] * 4})),
    refuses("classes-too-few", _changed("classes", {"names": list("ab"), "colors": [[0, 0, 0]] * 2})),
    refuses("colours-too-few", _changed("classes", {"colors": []})),
    refuses("the-same-class-twice", _changed("classes", {"names": list("aab")})),
    refuses("scale-of-billions", _with_header(lambda tree: tree | {"input_scale": 1e9})),
    refuses("scale-below-0", _with_header(lambda tree: tree | {"input_scale": -1.0})),
    refuses("scale-infinite", _with_header(lambda tree: tree | {"input_scale": float("inf")})),
    refuses("scale-nan", _with_header(lambda tree: tree | {"input_scale": float("nan")})),
]  # fmt: skip
WEIGHTS = [
    refuses("all-nan", _with_weights(_fill(float("nan"), all_of_it=True))),
    refuses("one-nan", _with_weights(_fill(float("nan"), all_of_it=False))),
    refuses("all-infinite", _with_weights(_fill(float("inf"), all_of_it=True))),
    refuses("one-infinite", _with_weights(_fill(float("-inf"), all_of_it=False))),
    either("one-huge", _with_weights(_fill(3e38, all_of_it=False))),
    refuses("integers", _with_weights(_cast(torch.int32))),
    refuses("bytes", _with_weights(_cast(torch.uint8))),
    refuses("booleans", _with_weights(_cast(torch.bool))),
    either("half", _with_weights(_cast(torch.float16))),
    either("double", _with_weights(_cast(torch.float64))),
    refuses("eighth", _with_weights(_cast(torch.float8_e4m3fn))),
    refuses("a-tensor-missing", _with_weights(lambda tensors: tensors.pop(_first(tensors)))),
    refuses("all-missing", _with_weights(lambda tensors: tensors.clear())),
    refuses("a-tensor-more", _with_weights(lambda tensors: tensors.update(extra=torch.zeros(3)))),
    refuses("a-tensor-of-markup", _with_weights(lambda tensors: tensors.update({"[/red]": torch.zeros(3)}))),
    refuses("a-tensor-shorter", _with_weights(_shorten)),
    refuses("a-tensor-empty", _with_weights(lambda tensors: tensors.update({_first(tensors): torch.zeros(0)}))),
]  # fmt: skip
FILES = [
    refuses("missing", Path.unlink),
    refuses("empty", lambda path: path.write_bytes(b"")),
    refuses("zeros", lambda path: path.write_bytes(bytes(5000))),
    refuses("text", lambda path: path.write_bytes(b"no network")),
    refuses("pointer-of-git-lfs", lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")),
    refuses("folder", lambda path: (path.unlink(), path.mkdir())),
    refuses("named-pipe", lambda path: (path.unlink(), os.mkfifo(path)), "net.safetensors is neither a run folder nor"),
    refuses("link-to-a-device", lambda path: (path.unlink(), path.symlink_to("/dev/zero"))),
    refuses("no-header-of-ours", lambda path: save_file({"a": torch.zeros(3)}, path)),
    refuses("pickle", lambda path: torch.save({"a": torch.zeros(3)}, path)),
    refuses("length-of-billions", _raw_header(b"{}", length=2**63)),
    refuses("length-beyond-the-file", _raw_header(b"{}", length=5000)),
    refuses("length-0", _raw_header(b"", length=0)),
    refuses("tensors-a-list", _raw_header(b"[]")),
    refuses("tensors-no-json", _raw_header(b"{" * 100)),
    refuses("tensors-nested-deeply", _raw_header(b'{"a":' * 5000 + b"1" + b"}" * 5000)),
    refuses("tensors-not-utf8", _raw_header(b'{"\xff": 1}')),
    refuses("metadata-of-numbers", _raw_header(json.dumps({"__metadata__": {KEY: 5}}).encode())),
    refuses("offsets-turned", _entry(data_offsets=[8, 0])),
    refuses("offsets-outside", _entry(data_offsets=[0, 2**40])),
    refuses("offsets-negative", _entry(data_offsets=[-8, 0])),
    refuses("shape-of-billions", _entry(shape=[2**40, 2**40])),
    refuses("shape-negative", _entry(shape=[-2])),
    refuses("dtype-unknown", _entry(dtype="F31")),
    refuses("bytes-behind-the-end", _rewritten(lambda content: content + b"more")),
    *(refuses(f"cut-to-{size}", _cut(size)) for size in (1, 8, 9, 100, 5000, 90_000)),
    *(either(f"bits-flipped-in-the-header-{seed}", _flip(seed)) for seed in range(6)),
]  # fmt: skip


@pytest.mark.parametrize("case", [*HEADERS, *WEIGHTS, *FILES], ids=lambda case: case.name)
def test_network(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes


def _export(name: str, value: float, *, all_of_it: bool) -> Case:
    """No network of numbers that are none becomes a bundle."""

    def make(place: Place) -> list[object]:
        network = write_network(place / "net.safetensors")
        _with_weights(_fill(value, all_of_it=all_of_it))(network)
        return ["export", network, "--bundle", place.output("bundle"), "--images", place.kits.data() / "val" / "images"]

    return Case(name, make, ("net.safetensors",))


EXPORTS = [
    _export("all-nan", float("nan"), all_of_it=True),
    _export("one-nan", float("nan"), all_of_it=False),
    _export("one-infinite", float("inf"), all_of_it=False),
]


@pytest.mark.parametrize("case", EXPORTS, ids=lambda case: case.name)
def test_export(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
