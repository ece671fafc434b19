"""Graphs that are not what they say: refused when they are opened, or at the first call, with what differs."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes import open_runtime
from protoseg_deploy.time_limit import TimeLimitError, limit_calls
from tests.runtimes.conftest import noise
from tests.runtimes.small_graphs import (
    CLASS_MAP,
    IMAGES,
    H,
    N,
    W,
    endless_loop,
    make_graph,
    metadata,
    remainder,
    tensor,
    write,
)

UINT8, FLOAT = TensorProto.UINT8, TensorProto.FLOAT


def refused(tmp_path: Path, model: onnx.ModelProto) -> str:
    """The error of opening a graph."""
    with pytest.raises(ProtosegError) as caught:
        open_runtime(write(tmp_path / "graph.onnx", model), device="cpu")
    assert "graph.onnx" in caught.value.message
    return caught.value.message


def sequence(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_sequence_value_info(name, UINT8, (N, H, W, 3))


def optional(name: str) -> onnx.ValueInfoProto:
    return helper.make_value_info(name, helper.make_optional_type_proto(tensor(name, UINT8, (N, H, W, 3)).type))


def test_a_graph_that_keeps_the_contract_runs(tmp_path: Path) -> None:
    images = noise(2, 5, 7)
    runtime = open_runtime(write(tmp_path / "graph.onnx", make_graph()), device="cpu")
    np.testing.assert_array_equal(runtime.predict(images), images[..., 0] % 3)
    assert runtime.info.verified is None
    # axes without a name or bound to one size, other outputs, weights that old versions list among the inputs
    sized = make_graph(
        inputs=(tensor("images", UINT8, (None, 5, 7, 3)), tensor("three", UINT8, ())),
        outputs=(tensor("class_map", UINT8, (None, 5, 7)), tensor("confidence", UINT8, (None, 5, 7))),
        nodes=[*remainder(), helper.make_node("Identity", ["reds"], ["confidence"])],
        said=metadata(fixed_size=(5, 7)),
    )
    runtime = open_runtime(write(tmp_path / "sized.onnx", sized), device="cpu")
    np.testing.assert_array_equal(runtime.predict(images), images[..., 0] % 3)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ((), "found none"),
        ((tensor("pictures", UINT8, (N, H, W, 3)),), "found pictures: uint8 [n, h, w, 3]"),
        ((tensor("images", FLOAT, (N, H, W, 3)),), "found images: float32 [n, h, w, 3]"),
        ((tensor("images", TensorProto.FLOAT8E5M2, (N, H, W, 3)),), "found images: float8e5m2"),
        ((tensor("images", 999, (N, H, W, 3)),), "found images: type 999"),
        ((tensor("images", UINT8, (N, 3, H, W)),), "found images: uint8 [n, 3, h, w]"),
        ((tensor("images", UINT8, (N, H, W, 4)),), "found images: uint8 [n, h, w, 4]"),
        ((tensor("images", UINT8, (N, H, W, "c")),), "found images: uint8 [n, h, w, c]"),
        ((tensor("images", UINT8, (H, W, 3)),), "found images: uint8 [h, w, 3]"),
        ((tensor("images", UINT8, ()),), "found images: uint8 []"),
        ((tensor("images", UINT8, None),), "of unknown shape"),
        ((tensor("images", UINT8, (1, H, W, 3)),), "found images: uint8 [1, h, w, 3]"),
        ((tensor("images", UINT8, (N, 64, 64, 3)),), "found images: uint8 [n, 64, 64, 3]"),
        ((tensor("images", UINT8, (N, 0, W, 3)),), "found images: uint8 [n, 0, w, 3]"),
        ((tensor("images", UINT8, (N, -1, W, 3)),), "found images: uint8 [n, -1, w, 3]"),
        ((IMAGES, tensor("extra", FLOAT, (1,))), "extra: float32 [1]"),
        ((sequence("images"),), "found images: sequence of unknown shape"),
        ((optional("images"),), "found images: optional of unknown shape"),
    ],
)
def test_other_inputs_are_refused(tmp_path: Path, inputs: tuple[Any, ...], words: str) -> None:
    message = refused(tmp_path, make_graph(inputs=inputs))
    assert "expected images: uint8 [batch, height, width, 3]" in message
    assert words in message


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ((), "found none"),
        ((tensor("result", UINT8, (N, H, W)),), "found result: uint8"),
        ((tensor("class_map", FLOAT, (N, H, W)),), "found class_map: float32"),
        ((tensor("class_map", TensorProto.INT32, (N, H, W)),), "found class_map: int32"),
        ((tensor("class_map", UINT8, (N, H, W, 1)),), "found class_map: uint8 [n, h, w, 1]"),
        ((tensor("class_map", UINT8, (N, W, H)),), "found class_map: uint8 [n, w, h]"),
        ((tensor("class_map", UINT8, (N, "half", W)),), "found class_map: uint8 [n, half, w]"),
        ((tensor("class_map", UINT8, (N, 0, W)),), "found class_map: uint8 [n, 0, w]"),
        ((tensor("class_map", UINT8, None),), "of unknown shape"),
        ((sequence("class_map"),), "found class_map: sequence"),
        ((CLASS_MAP, tensor("reds", UINT8, (N, H, W))), "reds: uint8"),
        ((CLASS_MAP, tensor("logits", FLOAT, (N, 7, H, W))), "expected logits: float32 [batch, 3, height, width]"),
        ((CLASS_MAP, tensor("logits", TensorProto.DOUBLE, (N, 3, H, W))), "found logits: float64"),
        ((CLASS_MAP, tensor("confidence", FLOAT, (N, H, W))), "expected confidence: uint8"),
        ((CLASS_MAP, CLASS_MAP), "found class_map"),
    ],
)
def test_other_outputs_are_refused(tmp_path: Path, outputs: tuple[Any, ...], words: str) -> None:
    assert words in refused(tmp_path, make_graph(outputs=outputs))


def test_more_classes_than_fit_a_byte_need_another_type(tmp_path: Path) -> None:
    message = refused(tmp_path, make_graph(said=metadata(300)))
    assert "expected class_map: int32 [batch, height, width], found class_map: uint8 [n, h, w]" in message


@pytest.mark.parametrize(
    ("properties", "words"),
    [
        ({"protoseg.classes": "[" * 100_000}, "classes"),
        ({"protoseg.provenance": '{"a":' * 100_000}, "provenance"),
        ({"protoseg.provenance": '"' + "x" * 5_000_000 + '"'}, "provenance has 5000002 bytes"),
        ({"protoseg.classes": '{"names": ["a", "b"], "colors": [[0, 0, 0]]}'}, "1 colours for 2 names"),
        ({"protoseg.classes": '{"names": ["a", "b"], "colors": [[0, 0, 0], [0, 0, 256]]}'}, "classes.colors"),
        ({"protoseg.classes": '{"names": ["a"], "colors": [[0, 0, 0]]}'}, "1 of at least 2"),
        ({"protoseg.std": "[0, 1, 1]"}, "std"),
        ({"protoseg.mean": "[NaN, 1, 1]"}, "mean"),
        ({"protoseg.input_scale": "1e999"}, "input_scale"),
        ({"protoseg.input_scale": "-1"}, "input_scale"),
        ({"protoseg.fixed_size": "[0, 5]"}, "fixed_size"),
        ({"protoseg.fixed_size": "[5, 5]"}, "expected images: uint8 [batch, 5, 5, 3]"),
        ({"protoseg.precision": '"int4"'}, "precision"),
        ({"protoseg.format": "9"}, "format"),
        ({"protoseg.surprise": "1"}, "surprise"),
        ({"protoseg.parameters": "{"}, "parameters"),
    ],
)
def test_metadata_that_say_nothing_sensible_are_one_error(
    tmp_path: Path, properties: dict[str, str], words: str
) -> None:
    assert words in refused(tmp_path, make_graph(properties=properties))


def test_metadata_that_are_not_utf8(tmp_path: Path) -> None:
    content = make_graph(properties={"protoseg.backbone": '"resnetXX"'}).SerializeToString()
    (tmp_path / "graph.onnx").write_bytes(content.replace(b"resnetXX", b"resnet\xff\xfe"))
    with pytest.raises(ProtosegError, match=r"graph\.onnx: its metadata backbone"):
        open_runtime(tmp_path / "graph.onnx")


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    content = make_graph(outputs=(tensor("class_mXX", UINT8, (N, H, W)),)).SerializeToString()
    (tmp_path / "graph.onnx").write_bytes(content.replace(b"class_mXX", b"class_m\xff\xfe"))
    with pytest.raises(ProtosegError, match="does not have the inputs and outputs"):
        open_runtime(tmp_path / "graph.onnx")


def scaled(weight: Any, operator: str = "Mul") -> onnx.ModelProto:
    """A graph that computes with a weight in float32."""
    nodes = [
        helper.make_node("Gather", ["images", "red"], ["reds"], axis=3),
        helper.make_node("Cast", ["reds"], ["pixels"], to=FLOAT),
        helper.make_node(operator, ["pixels", "weight"], ["scaled"]),
        helper.make_node("Cast", ["scaled"], ["class_map"], to=UINT8),
    ]
    return make_graph(nodes, weights={"weight": weight})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, value: float, dtype: type) -> None:
    word = "NaN" if np.isnan(value) else "infinity"
    assert f"its weight weight holds {word} (1 of 2 numbers)" in refused(
        tmp_path, scaled(np.array([1, value], dtype).reshape(2, 1, 1))
    )


def test_weights_inside_nodes_and_inner_graphs_are_looked_at(tmp_path: Path) -> None:
    model = scaled(np.float32(1))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["other"], value_float=0.0))
    model.graph.node[0].CopyFrom(
        helper.make_node("Constant", [], ["other"], value=numpy_helper.from_array(np.float32([np.nan]), "anything"))
    )
    model.graph.node[3].input[1] = "other"
    assert "its weight other holds NaN" in refused(tmp_path, model)
    loop = endless_loop()
    body = next(node for node in loop.graph.node if node.op_type == "Loop").attribute[0].g
    body.initializer.append(numpy_helper.from_array(np.float32([np.nan]), "inner"))
    assert "its weight inner holds NaN" in refused(tmp_path, loop)


@pytest.mark.parametrize("operator", ["Min", "Max"])
def test_infinity_is_a_bound_where_it_means_one(tmp_path: Path, operator: str) -> None:
    """Ranges with an open end and masks of an attention are sound; NaN never is."""
    bound = np.float32(np.inf if operator == "Min" else -np.inf)
    path = write(tmp_path / "graph.onnx", scaled(bound, operator))
    images = noise(1, 4, 4) % 3
    np.testing.assert_array_equal(open_runtime(path, device="cpu").predict(images), images[..., 0])
    assert "holds NaN" in refused(tmp_path, scaled(np.float32(np.nan), operator))


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    for dims in ((10**6, 10**6), (3,), (-1,), (2**62, 2**62)):
        model = scaled(np.float32([1, 2]).reshape(2, 1, 1))
        weight = next(entry for entry in model.graph.initializer if entry.name == "weight")
        weight.dims[:] = dims
        assert "weight" in refused(tmp_path, model)
    integers = make_graph()
    next(entry for entry in integers.graph.initializer if entry.name == "three").dims[:] = (10**12,)
    refused(tmp_path, integers)


@pytest.mark.parametrize("location", ["../other.data", "/etc/passwd", "other.data", "", "graph.onnx.data/../x"])
def test_weights_outside_lie_beside_the_graph(tmp_path: Path, location: str) -> None:
    model = scaled(np.float32([1, 2]).reshape(2, 1, 1))
    weight = next(entry for entry in model.graph.initializer if entry.name == "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    assert "weights outside a graph lie in graph.onnx.data" in refused(tmp_path, model)
    weight.external_data[0].value = "graph.onnx.data"
    assert "graph.onnx.data cannot be read" in refused(tmp_path, model)
    (tmp_path / "graph.onnx.data").write_bytes(b"1234")
    assert "weight" in refused(tmp_path, model)
    (tmp_path / "graph.onnx.data").write_bytes(np.float32([1, np.nan]).tobytes())
    assert "holds NaN" in refused(tmp_path, model)


def test_what_no_library_could_run(tmp_path: Path) -> None:
    future = make_graph()
    future.opset_import[0].version = 999
    versions = make_graph()
    versions.ir_version = 10**6
    foreign = make_graph([helper.make_node("Mystery", ["images"], ["class_map"], domain="someone.else")])
    loose = make_graph([helper.make_node("Mod", ["nowhere", "three"], ["class_map"])])
    recursive = make_graph([helper.make_node("again", ["images"], ["class_map"], domain="own")])
    recursive.functions.append(
        helper.make_function(
            "own", "again", ["x"], ["y"], [helper.make_node("again", ["x"], ["y"], domain="own")],
            [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)],
        )
    )  # fmt: skip
    for model in (future, versions, foreign, loose, recursive):
        assert "graph.onnx" in refused(tmp_path, model)


def test_class_maps_of_another_size_are_refused(tmp_path: Path) -> None:
    """The graph says otherwise, so that only a call shows it."""
    half = [
        helper.make_node("Gather", ["images", "red"], ["reds"], axis=3),
        helper.make_node("Mod", ["reds", "three"], ["whole"]),
        helper.make_node("Slice", ["whole", "zero", "end", "axis", "step"], ["class_map"]),
    ]
    weights = {"zero": np.array([0]), "end": np.array([2**31]), "axis": np.array([1]), "step": np.array([2])}
    turned = [*remainder("whole"), helper.make_node("Transpose", ["whole"], ["class_map"], perm=[0, 2, 1])]
    for nodes in (half, turned):
        model = make_graph(nodes, weights=weights, inputs=(tensor("images", UINT8, (None, None, None, 3)),))
        model.graph.output[0].CopyFrom(tensor("class_map", UINT8, (None, None, None)))
        runtime = open_runtime(write(tmp_path / "graph.onnx", model), device="cpu")
        with pytest.raises(ProtosegError, match=r"gives class maps of .* for images of \[1, 6, 8, 3\]"):
            runtime.predict(noise(1, 6, 8))


def test_indices_that_are_no_class_are_refused(tmp_path: Path) -> None:
    images = np.full((1, 4, 4, 3), 5, np.uint8)
    runtime = open_runtime(write(tmp_path / "graph.onnx", make_graph(said=metadata(2))), device="cpu")
    with pytest.raises(ProtosegError, match=r"gives the class index 2, and its metadata name 2 classes \(0 to 1\)"):
        runtime.predict(images)
    signed = make_graph(
        [
            helper.make_node("Gather", ["images", "red"], ["reds"], axis=3),
            helper.make_node("Cast", ["reds"], ["wide"], to=TensorProto.INT32),
            helper.make_node("Neg", ["wide"], ["class_map"]),
        ],
        outputs=(tensor("class_map", TensorProto.INT32, (N, H, W)),),
        said=metadata(300),
    )
    runtime = open_runtime(write(tmp_path / "signed.onnx", signed), device="cpu")
    with pytest.raises(ProtosegError, match="gives the class index -5"):
        runtime.predict(images)


def test_a_graph_that_fails_while_it_runs_is_one_error(tmp_path: Path) -> None:
    """Its last node cannot add what the images give it."""
    nodes = [*remainder("whole"), helper.make_node("Add", ["whole", "row"], ["class_map"])]
    model = make_graph(nodes, weights={"row": np.zeros(5, np.uint8)})
    runtime = open_runtime(write(tmp_path / "graph.onnx", model), device="cpu")
    assert runtime.predict(noise(1, 4, 5)).shape == (1, 4, 5)
    with pytest.raises(ProtosegError, match=r"ONNX Runtime cannot compute .*graph\.onnx"):
        runtime.predict(noise(1, 4, 6))


def test_a_call_without_an_end_is_stopped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runtime = open_runtime(write(tmp_path / "graph.onnx", endless_loop()), device="cpu")
    before = limit_calls(0.5)
    try:
        with pytest.raises(TimeLimitError, match=r"graph\.onnx did not return within 0\.5 s") as caught:
            runtime.predict(noise(1, 4, 4))
    finally:
        limit_calls(before)
    assert "--timeout" in caught.value.hint
    assert capfd.readouterr().err == ""
