"""The types of a cast graph: low where it pays, float32 where it matters, and nothing cast for nothing."""

import functools
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from protoseg_deploy.bundles.element_types import element_types
from protoseg_deploy.exporting.low_precision.casting import cast_graph
from protoseg_deploy.exporting.tracing.onnx_export import save_graph
from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu
from protoseg_deploy.runtimes.rounding import emulate_rounding
from tests.exporting.families import Family, exported, pictures

TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
CNN, TRANSFORMER = Family("resnet10t", "lraspp"), Family("test_vit", "fpn")
BOTH = pytest.mark.parametrize("precision", ["fp16", "bf16"])


@functools.cache
def graph(family: Family) -> ModelProto:
    """Not to be changed."""
    return onnx.load(exported(family))


def copy_of(family: Family) -> ModelProto:
    model = ModelProto()
    model.CopyFrom(graph(family))
    return model


def run(model: ModelProto, images: np.ndarray, *outputs: str) -> list[np.ndarray]:
    session = ort.InferenceSession(emulate_rounding(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or None, {"images": images})


def computed_in(model: ModelProto) -> list[tuple[NodeProto, int | None]]:
    """Nodes and the type of their first output."""
    types = element_types(model)
    return [(node, types.get(node.output[0])) for node in model.graph.node]


def from_images(model: ModelProto) -> set[str]:
    """Values that depend on pixels."""
    values = {"images"}
    for node in model.graph.node:
        if node.op_type not in {"Shape", "Size"} and values.intersection(node.input):
            values.update(node.output)
    return values


def signature(model: ModelProto) -> list[tuple[str, int, list[str | int]]]:
    values = (*model.graph.input, *model.graph.output)
    return [
        (v.name, v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    ]


@BOTH
@pytest.mark.parametrize("family", [CNN, TRANSFORMER], ids=str)
def test_what_is_low_and_what_is_kept(family: Family, precision: str) -> None:
    before = graph(family).SerializeToString(deterministic=True)
    model, conversion = cast_graph(graph(family), precision)
    assert graph(family).SerializeToString(deterministic=True) == before
    onnx.checker.check_model(model, full_check=True)
    assert signature(model) == signature(graph(family))

    pixels = from_images(model)
    everywhere = computed_in(model)
    nodes = [(node, type_) for node, type_ in everywhere if pixels.intersection(node.output)]
    types = element_types(model)
    for node, type_ in nodes:
        if node.op_type == "ConvTranspose" and precision == "bf16":
            assert type_ == TensorProto.FLOAT  # TensorRT has none in bfloat16
        elif node.op_type in PRODUCTS:
            assert type_ == TYPES[precision], node.name
            assert {types[name] for name in node.input if name} == {TYPES[precision]}
        if node.op_type in {"LayerNormalization", "Softmax", "ReduceMean"}:
            assert type_ == TensorProto.FLOAT, node.name
    kinds = [(node.op_type, type_) for node, type_ in nodes]
    first, last = (index for index, kind in enumerate(kinds) if kind[0] in PRODUCTS), len(kinds)
    start = next(first)
    end = last - next(index for index, kind in enumerate(reversed(kinds)) if kind[0] in PRODUCTS)
    # normalisation of the image and, at the other end, upsampling and comparison of the logits
    assert ("Sub", TensorProto.FLOAT) in kinds[:start]
    assert {type_ for op, type_ in kinds[end:] if op == "Resize"} == {TensorProto.FLOAT}
    assert TYPES[precision] not in {type_ for op, type_ in (*kinds[: start - 1], *kinds[end:]) if op != "Cast"}
    # elementwise work between the products is low
    assert ("Relu", TYPES[precision]) in kinds

    found = Counter(op for op, type_ in kinds if type_ == TYPES[precision] and op != "Cast")
    # of what no pixel decides, the products alone
    found += Counter(
        node.op_type
        for node, type_ in everywhere
        if type_ == TYPES[precision] and node.op_type in PRODUCTS and not pixels.intersection(node.output)
    )
    assert conversion["low"] == dict(sorted(found.items()))
    assert conversion["out_of_range"] == []


@BOTH
@pytest.mark.parametrize("family", [CNN, TRANSFORMER], ids=str)
def test_nothing_is_cast_for_nothing(family: Family, precision: str) -> None:
    model, conversion = cast_graph(graph(family), precision)
    types = element_types(model)
    made_by = {name: node for node in model.graph.node for name in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    floats = (TensorProto.FLOAT, TYPES[precision])
    changes = [(node.input[0], types[node.output[0]]) for node in casts]
    assert len(changes) == len(set(changes))
    for node in casts:
        source = made_by.get(node.input[0])
        assert types[node.input[0]] != types[node.output[0]]
        there_and_back = source is not None and source.op_type == "Cast" and types[source.input[0]] in floats
        assert not there_and_back, node.name
    assert len(casts) - sum(node.op_type == "Cast" for node in graph(family).graph.node) <= conversion["casts"]
    used = {name for node in model.graph.node for name in node.input}
    assert {weight.name for weight in model.graph.initializer} <= used
    # a weight is stored once, under its name
    names = {weight.name for weight in model.graph.initializer}
    assert names <= {weight.name for weight in graph(family).graph.initializer} | {f"{n}_{precision}" for n in names}
    transposed = {node.input[1] for node in model.graph.node if node.op_type == "ConvTranspose"}
    kept = [w for w in model.graph.initializer if w.data_type == TensorProto.FLOAT and w.name not in transposed]
    large = sum(np.prod(w.dims) for w in kept)
    assert large < 0.05 * sum(np.prod(w.dims) for w in model.graph.initializer)


def convolutions(model: ModelProto) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def scale_weight(model: ModelProto, name: str, factor: float) -> None:
    weight = next(entry for entry in model.graph.initializer if entry.name == name)
    weight.CopyFrom(numpy_helper.from_array((numpy_helper.to_array(weight) * factor).astype(np.float32), name))


@pytest.mark.parametrize("factor", [1e8, 1e-8])
def test_weights_out_of_range_stay_float32(factor: float) -> None:
    """float16 has neither 1e6 nor, with any digits, 1e-9; bfloat16 has the range of float32."""
    model = copy_of(CNN)
    node = convolutions(model)[3]
    scale_weight(model, node.input[1], factor)
    cast, conversion = cast_graph(model, "fp16")
    assert conversion["out_of_range"] == [node.name]
    assert conversion["kept"]["Conv"] == 1
    weight = next(entry for entry in cast.graph.initializer if entry.name == node.input[1])
    assert weight.data_type == TensorProto.FLOAT
    onnx.checker.check_model(cast, full_check=True)
    assert cast_graph(model, "bf16")[1]["out_of_range"] == []


@BOTH
def test_named_nodes_are_kept(precision: str) -> None:
    chosen = frozenset(node.name for node in convolutions(graph(CNN))[2:4])
    model, conversion = cast_graph(graph(CNN), precision, keep=chosen)
    onnx.checker.check_model(model, full_check=True)
    kept = {node.name for node, type_ in computed_in(model) if node.op_type == "Conv" and type_ == TensorProto.FLOAT}
    assert kept == chosen
    assert conversion["kept"]["Conv"] == 2
    every = frozenset(node.name for node in graph(CNN).graph.node)
    untouched, conversion = cast_graph(graph(CNN), precision, keep=every)
    assert (conversion["low"], conversion["casts"]) == ({}, 0)
    images = pictures(1, 65, 51)
    logits, expected = (run(model, images, "logits")[0] for model in (untouched, graph(CNN)))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_an_overflow_inside_is_seen_and_mended_by_keeping_it() -> None:
    """One layer too large and the next as much smaller: the same network in float32, nonsense in float16."""
    model = copy_of(CNN)
    first, second = convolutions(model)[1:3]
    weights = {entry.name: entry for entry in model.graph.initializer}
    for name in first.input[1:]:
        scale_weight(model, name, 2.0**15)
    scale_weight(model, second.input[1], 2.0**-15)
    assert max(np.abs(numpy_helper.to_array(weights[n])).max() for n in first.input[1:]) < 65504
    images = pictures(1, 65, 51)
    expected = run(graph(CNN), images, "class_map")[0]
    np.testing.assert_array_equal(run(model, images, "class_map")[0], expected)
    wrong = run(cast_graph(model, "fp16", frozenset({second.name}))[0], images, "class_map")[0]
    assert np.mean(wrong == expected) < 0.9
    between = {first.name, second.name} | {n.name for n in model.graph.node if first.output[0] in n.input}
    mended = run(cast_graph(model, "fp16", frozenset(between))[0], images, "class_map")[0]
    assert np.mean(mended == expected) > 0.98


def small_graph(nodes: list[NodeProto], weights: dict[str, np.ndarray]) -> ModelProto:
    """uint8 ``images`` and float32 ``x`` ``[1,4,H,W]`` made of them, to float32 ``y``."""
    image = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 4, "h", "w"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Cast", ["images"], ["x"], "to_float", to=TensorProto.FLOAT), *nodes]
    stored = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    made = helper.make_graph(nodes, "g", [image], [result], stored)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_decomposed_normalisation_is_kept() -> None:
    """Root mean square normalisation written out, between two convolutions."""
    square = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first"),
        helper.make_node("Pow", ["a", "two"], ["squares"], "pow"),
        helper.make_node("ReduceMean", ["squares", "axis"], ["mean"], "mean"),
        helper.make_node("Add", ["mean", "epsilon"], ["shifted"], "add"),
        helper.make_node("Sqrt", ["shifted"], ["root"], "sqrt"),
        helper.make_node("Div", ["a", "root"], ["normal"], "div"),
        helper.make_node("Mul", ["normal", "gain"], ["gained"], "gain"),
        helper.make_node("Conv", ["gained", "w"], ["y"], "second"),
    ]
    weights = {
        "w": square,
        "two": np.float32(2),
        "axis": np.array([1]),
        "epsilon": np.float32(1e-12),
        "gain": np.ones((1, 4, 1, 1), np.float32),
    }
    model, conversion = cast_graph(small_graph(nodes, weights), "fp16")
    low = {node.name for node, type_ in computed_in(model) if type_ == TensorProto.FLOAT16 and node.op_type != "Cast"}
    assert low == {"first", "second"}
    assert conversion["casts"] == 4  # into and out of each convolution
    # bytes go to the first convolution in one cast
    assert [node.input[0] for node in model.graph.node if node.op_type == "Cast"].count("images") == 1
    images = np.random.default_rng(0).integers(0, 256, (1, 4, 5, 7), dtype=np.uint8)
    found = run(model, images)[0]
    expected = images / np.sqrt(np.mean(images.astype(float) ** 2, axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected, rtol=2e-3)


@BOTH
def test_large_weights_go_beside_the_graph(tmp_path: Path, precision: str) -> None:
    model, _ = cast_graph(graph(CNN), precision)
    images = pictures(1, 65, 51)
    expected = run(model, images, "class_map")[0]
    path = tmp_path / "model.onnx"
    assert save_graph(model, path, external_above=1000) == ("model.onnx", "model.onnx.data")
    assert path.stat().st_size < 0.1 * path.with_name("model.onnx.data").stat().st_size
    options = ort.SessionOptions()
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(tmp_path))
    session = ort.InferenceSession(loadable_on_cpu(path), options, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["class_map"], {"images": images})[0], expected)
