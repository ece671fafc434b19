"""ONNX graphs of a few nodes with the metadata of this program: what strangers' tools might make of one."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from protoseg_deploy.bundles.metadata import Classes, GraphMetadata

N, H, W = "n", "h", "w"


def metadata(classes: int = 3, **changes: Any) -> GraphMetadata:
    colors = tuple((number % 256, number // 256, 0) for number in range(classes))
    content = {
        "program": "test",
        "classes": Classes(names=tuple(map(str, range(classes))), colors=colors),
        "ignore_index": 255,
        "mean": (1.0, 2.0, 3.0),
        "std": (4.0, 5.0, 6.0),
        "input_scale": 1.0,
        "fixed_size": None,
        "precision": "fp32",
        "parameters": 1,
        "backbone": "x",
        "decoder": "y",
        "provenance": {},
        "network_sha256": "0" * 64,
    }
    return GraphMetadata.model_validate({**content, **changes})


def tensor(name: str, dtype: int, shape: tuple[Any, ...] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


IMAGES = tensor("images", TensorProto.UINT8, (N, H, W, 3))
CLASS_MAP = tensor("class_map", TensorProto.UINT8, (N, H, W))


def make_graph(
    nodes: list[onnx.NodeProto] | None = None,
    *,
    inputs: tuple[onnx.ValueInfoProto, ...] = (IMAGES,),
    outputs: tuple[onnx.ValueInfoProto, ...] = (CLASS_MAP,),
    weights: dict[str, np.ndarray] | None = None,
    properties: dict[str, str] | None = None,
    said: GraphMetadata | None = None,
) -> ModelProto:
    """The class is the red channel modulo 3, unless there are other nodes; nothing is checked."""
    stored = {"red": np.array(0), "three": np.array(3, np.uint8), **(weights or {})}
    graph = helper.make_graph(
        nodes or remainder(),
        "small",
        list(inputs),
        list(outputs),
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {**(said or metadata()).to_properties(), **(properties or {})})
    return model


def remainder(target: str = "class_map") -> list[onnx.NodeProto]:
    return [
        helper.make_node("Gather", ["images", "red"], ["reds"], axis=3),
        helper.make_node("Mod", ["reds", "three"], [target]),
    ]


def write(path: Path, model: ModelProto) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def endless_loop() -> ModelProto:
    """A graph whose loop goes on for ever."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["goes_on"], ["still"]), helper.make_node("Add", ["sum", "three"], ["more"])],
        "body",
        [
            tensor("number", TensorProto.INT64, ()),
            tensor("goes_on", TensorProto.BOOL, ()),
            tensor("sum", TensorProto.UINT8, (None, None, None)),
        ],
        [tensor("still", TensorProto.BOOL, ()), tensor("more", TensorProto.UINT8, (None, None, None))],
    )
    loop = helper.make_node("Loop", ["", "true", "start"], ["class_map"], body=body)
    return make_graph([*remainder("start"), loop], weights={"true": np.array(True)})
