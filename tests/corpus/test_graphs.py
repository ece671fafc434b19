"""ONNX files: strangers' graphs under our metadata, metadata that lie, files that are cut."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tests.corpus.judging import Case, Place
from tests.corpus.kits import describe, metadata, mirror_graph, mirrored, scene
from tests.corpus.launching import Ended
from tests.corpus.spoiling import NASTY, cuts, flipped

IMAGE = scene(8)[0]
TIMEOUT_S = 5
"""For calls that do not return; those that do take milliseconds."""


def _predict(write: Callable[[Path], object]) -> Callable[[Place], list[object]]:
    def make(place: Place) -> list[object]:
        write(place / "graph.onnx")
        Image.fromarray(IMAGE).save(place / "image.png")
        options = ["--device", "cpu", "--timeout", TIMEOUT_S]
        return ["predict", place / "graph.onnx", place / "image.png", "--out", place.output("out"), *options]

    return make


def _is_right(place: Place, ended: Ended) -> None:
    with Image.open(place / "out" / "index" / "image.png") as image:
        np.testing.assert_array_equal(np.asarray(image), mirrored(IMAGE))


def _graph(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], object]:
    """The graph of `mirror_graph`, changed."""

    def write(path: Path) -> None:
        model = mirror_graph()
        change(model)
        path.write_bytes(model.SerializeToString())

    return write


def reads(name: str, change: Callable[[onnx.ModelProto], object]) -> Case:
    return Case(name, _predict(_graph(change)), right=_is_right, must_pass=True)


def either(name: str, change: Callable[[onnx.ModelProto], object]) -> Case:
    return Case(name, _predict(_graph(change)), ("graph.onnx",), right=_is_right)


def refuses(name: str, change: Callable[[onnx.ModelProto], object]) -> Case:
    return Case(name, _predict(_graph(change)), ("graph.onnx",))


def file_is(name: str, write: Callable[[Path], object]) -> Case:
    return Case(name, _predict(write), ("graph.onnx",))


def bytes_are(name: str, change: Callable[[bytes], bytes]) -> Case:
    content = mirror_graph().SerializeToString()
    return Case(name, _predict(lambda path: path.write_bytes(change(content))), ("graph.onnx",), right=_anything)


def _anything(place: Place, ended: Ended) -> None:
    """A flipped bit may be one of a weight: what comes out is a class map all the same."""
    with Image.open(place / "out" / "index" / "image.png") as image:
        assert np.asarray(image).shape == IMAGE.shape[:2]
        assert np.asarray(image).max() < 64


def _shape(value: onnx.ValueInfoProto, kind: int, axes: Sequence[int | str | None]) -> None:
    value.CopyFrom(helper.make_tensor_value_info(value.name, kind, axes))


def _input(kind: int, *axes: int | str | None) -> Callable[[onnx.ModelProto], None]:
    return lambda model: _shape(model.graph.input[0], kind, axes)


def _output(kind: int, *axes: int | str | None) -> Callable[[onnx.ModelProto], None]:
    return lambda model: _shape(model.graph.output[0], kind, axes)


Axes = Sequence[int | str]
Change = Callable[[onnx.ModelProto], object]


def _after(
    *nodes: onnx.NodeProto,
    kind: int = TensorProto.UINT8,
    axes: Axes = ("batch", "height", "width"),
    weights: Sequence[onnx.TensorProto] = (),
) -> Change:
    """More nodes behind the class map; the first takes ``inner``, the last gives ``class_map``."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "inner"
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(weights)
        _shape(model.graph.output[0], kind, axes)

    return change


def _renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new if name == old else name


def _weight(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def _set_weight(name: str, values: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = [tensor for tensor in model.graph.initializer if tensor.name != name]
        del model.graph.initializer[:]
        model.graph.initializer.extend([*kept, _weight(name, values)])

    return change


def _external(location: str, *, length: str = "12") -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "places")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", length)):
            tensor.external_data.add(key=key, value=value)

    return change


def _more_classes(model: onnx.ModelProto, count: int) -> None:
    names = [f"class {n}" for n in range(count)]
    colors = [(n % 256, n // 256, 0) for n in range(count)]
    _says(classes={"names": names, "colors": colors, "binary": False})(model)


def _says(**values: Any) -> Change:
    """Other metadata, whatever they are."""
    texts = {f"protoseg.{key}": json.dumps(value) for key, value in values.items()}
    return lambda model: describe(model, metadata().to_properties() | texts)


def _without_end(model: onnx.ModelProto) -> None:
    """A loop of as many turns as there are: it does not return."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["condition"], ["go_on"]), helper.make_node("Add", ["value", "one"], ["more"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("condition", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, []),
        ],
        [_weight("one", np.float32(0))],
    )
    model.graph.initializer.extend(
        [_weight("turns", np.int64(2**62)), _weight("yes", np.bool_(True)), _weight("nothing", np.float32(0))]
    )
    model.graph.node[-2].output[0] = "inner"
    loop = helper.make_node("Loop", ["turns", "yes", "nothing"], ["zero"], body=body)
    last = model.graph.node[-1]
    nodes = [*model.graph.node[:-1], loop, helper.make_node("Add", ["inner", "zero"], ["sums"]), last]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _one_output_more(model: onnx.ModelProto) -> None:
    levels = helper.make_tensor_value_info("levels", TensorProto.FLOAT, ["batch", "height", "width", 3])
    model.graph.output.append(levels)


def _one_input_more(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


_FLOATS = helper.make_node("Cast", ["inner"], ["class_map"], to=TensorProto.FLOAT)
_INTEGERS = helper.make_node("Cast", ["inner"], ["class_map"], to=TensorProto.INT64)
_TURNED = helper.make_node("Transpose", ["inner"], ["class_map"], perm=[0, 2, 1])
_DEEPER = helper.make_node("Unsqueeze", ["inner", "axis"], ["class_map"])
_HALF = helper.make_node("Slice", ["inner", "from", "to", "axes", "steps"], ["class_map"])
_SLICE = [_weight("from", [0, 0]), _weight("to", [9999, 9999]), _weight("axes", [1, 2]), _weight("steps", [2, 2])]
_CROP = [_weight("from", [0, 0]), _weight("to", [-1, -1]), _weight("axes", [1, 2]), _weight("steps", [1, 1])]

GRAPHS = [
    reads("plain", lambda model: None),
    either("axes-without-names", _input(TensorProto.UINT8, None, None, None, 3)),
    either("an-older-opset", lambda model: model.opset_import.__getitem__(0).__setattr__("version", 17)),
    either("another-producer", lambda model: model.__setattr__("producer_name", "[/red]\0")),
    either("an-output-more", _one_output_more),
    refuses("input-renamed", lambda model: _renamed(model, "images", "pictures")),
    refuses("output-renamed", lambda model: _renamed(model, "class_map", "labels")),
    refuses("two-inputs", _one_input_more),
    refuses("input-float", _input(TensorProto.FLOAT, "batch", "height", "width", 3)),
    refuses("input-16-bit", _input(TensorProto.UINT16, "batch", "height", "width", 3)),
    refuses("input-channels-first", _input(TensorProto.UINT8, "batch", 3, "height", "width")),
    refuses("input-of-4-channels", _input(TensorProto.UINT8, "batch", "height", "width", 4)),
    refuses("input-of-3-axes", _input(TensorProto.UINT8, "height", "width", 3)),
    refuses("input-of-another-size", _input(TensorProto.UINT8, 1, 8, 8, 3)),
    refuses("output-float", _after(_FLOATS, kind=TensorProto.FLOAT)),
    refuses("output-64-bit", _after(_INTEGERS, kind=TensorProto.INT64)),
    refuses("output-turned", _after(_TURNED)),
    refuses("output-of-4-axes", _after(_DEEPER, axes=(1, 1, "height", "width"), weights=[_weight("axis", [1])])),
    refuses("output-of-half-the-size", _after(_HALF, weights=_SLICE)),
    refuses("output-a-row-short", _after(_HALF, weights=_CROP)),
    refuses("output-that-nobody-computes", lambda model: model.graph.node.pop()),
    refuses("no-nodes", lambda model: model.graph.ClearField("node")),
    refuses("no-outputs", lambda model: model.graph.ClearField("output")),
    refuses("no-inputs", lambda model: model.graph.ClearField("input")),
    refuses("no-graph", lambda model: model.ClearField("graph")),
    refuses("no-metadata", lambda model: describe(model, {})),
    refuses("metadata-of-others", lambda model: describe(model, {"author": "somebody"})),
    refuses("classes-that-are-not-named", lambda model: _more_classes(model, 20)),
    refuses("classes-300-in-bytes", lambda model: _more_classes(model, 300)),
    refuses("classes-none", lambda model: _more_classes(model, 0)),
    refuses("a-size-it-does-not-say", _says(fixed_size=(8, 8))),
    refuses("a-size-of-billions", _says(fixed_size=(2**31, 2**31))),
    refuses("a-size-below-0", _says(fixed_size=(-8, -8))),
    refuses("weight-nan", _set_weight("places", np.array([np.nan, 4, 1], np.float32))),
    refuses("weight-infinite", _set_weight("places", np.array([np.inf, 4, 1], np.float32))),
    refuses("weight-of-another-shape", _set_weight("places", np.ones(4, np.float32))),
    refuses("weight-of-another-type", _set_weight("places", np.ones(3, np.int64))),
    refuses("weight-missing", lambda model: model.graph.ClearField("initializer")),
    refuses("classes-out-of-range", _set_weight("places", np.array([60, 60, 60], np.float32))),
    refuses("operator-unknown", lambda model: model.graph.node[2].__setattr__("op_type", "Flour")),
    refuses("operator-of-a-domain-unknown", lambda model: model.graph.node[2].__setattr__("domain", "com.example")),
    refuses("operator-of-python", lambda model: model.graph.node[2].__setattr__("domain", "pyopmulti_1")),
    refuses("opset-of-the-future", lambda model: model.opset_import.__getitem__(0).__setattr__("version", 999)),
    refuses("opset-missing", lambda model: model.ClearField("opset_import")),
    refuses("version-of-the-future", lambda model: model.__setattr__("ir_version", 999)),
    refuses("a-circle", lambda model: model.graph.node[1].input.__setitem__(0, "sums")),
    refuses("a-name-twice", lambda model: model.graph.node[2].output.__setitem__(0, "numbers")),
    refuses("weights-outside", _external("weights.bin")),
    refuses("weights-in-the-folder-above", _external("../weights.bin")),
    refuses("weights-of-the-system", _external("/etc/passwd")),
    refuses("weights-of-a-device", _external("/dev/zero", length=str(2**40))),
    refuses("a-loop-without-end", _without_end),
    refuses("a-cast-to-nothing", lambda model: model.graph.node[-1].attribute[0].__setattr__("i", 99)),
]  # fmt: skip


def _spoilt_metadata() -> Iterator[Case]:
    plain = metadata().to_properties()
    nasty = list(NASTY)
    for number, key in enumerate(plain):
        for offset in (0, 9):
            name = nasty[(number + offset) % len(nasty)]
            text = json.dumps(NASTY[name])
            yield either(f"{key}={name}", lambda model, key=key, text=text: describe(model, plain | {key: text}))
        yield either(
            f"{key}-missing", lambda model, key=key: describe(model, {k: v for k, v in plain.items() if k != key})
        )
    key = "protoseg.classes"
    for name, text in {
        "nested-deeply": "[" * 50_000 + "]" * 50_000, "no-json": "{", "empty": "", "digits": "9" * 5000, "nan": "NaN",
        "not-utf8-escape": '"\\udcff"', "colours-out-of-range": plain[key].replace("[0, 0, 0]", "[0, 0, 999]"),
        "names-twice": plain[key].replace('"class 1"', '"class 0"'),
        "markup": plain[key].replace('"class 1"', '"[/red]"'),
    }.items():  # fmt: skip
        yield either(f"{key}-{name}", lambda model, text=text: describe(model, plain | {key: text}))
    yield either("a-property-more", lambda model: describe(model, plain | {"protoseg.more": "1"}))
    yield either("a-property-of-megabytes", lambda model: describe(model, plain | {"other": "x" * 10_000_000}))


_WHOLE = mirror_graph().SerializeToString()
FILES = [
    file_is("missing", lambda path: None),
    file_is("empty", lambda path: path.write_bytes(b"")),
    file_is("text", lambda path: path.write_bytes(b"no graph")),
    file_is("zeros", lambda path: path.write_bytes(bytes(5000))),
    file_is("noise", lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000))),
    file_is("groups-nested-deeply", lambda path: path.write_bytes(b"\x3b" * 100_000)),
    file_is("a-length-of-billions", lambda path: path.write_bytes(b"\x3a\xff\xff\xff\xff\x7f" + b"x" * 50)),
    file_is("pickle", lambda path: path.write_bytes(b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94.")),
    file_is("folder", Path.mkdir),
    file_is("named-pipe", os.mkfifo),
    file_is("link-to-a-device", lambda path: path.symlink_to("/dev/zero")),
    file_is("link-to-itself", lambda path: path.symlink_to(path)),
    *(bytes_are(f"cut-to-{size}", lambda content, size=size: content[:size]) for size in cuts(len(_WHOLE), 5)),
    *(bytes_are(f"bits-flipped-{seed}", lambda content, seed=seed: flipped(content, seed, 2)) for seed in range(10)),
]


@pytest.mark.parametrize("case", [*GRAPHS, *_spoilt_metadata(), *FILES], ids=lambda case: case.name)
def test_graph(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
