"""Precisions are read from what inspectors write: TensorRT 10 and 11 write it differently."""

import json

import pytest

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.exporting.engines.layers import Layer, check_precision, engine_layers, layer_table

HEAVY = ["conv1", "conv2", "conv10", "proj/MatMul"]


def inspection(key: str, *layers: tuple[str, str, list[str]]) -> str:
    """Engine layers of (name, metadata, types of the inputs)."""
    described = [
        {
            "Name": name,
            "LayerType": "kernel",
            "Metadata": metadata,
            "Inputs": [{"Name": "x", key: dtype} for dtype in types],
        }
        for name, metadata, types in layers
    ]
    return json.dumps({"Layers": described})


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_layers_of_an_engine(key: str) -> None:
    text = inspection(
        key,
        ("conv1 + relu", "[ONNX Layer: conv1]\x1e[ONNX Layer: relu]", ["Half"]),
        ("myelin_3", "[ONNX Layer: conv2]", ["Channel major FP16 format where channel % 8 == 0"]),
        ("conv10", "", ["Row major linear FP32"]),
        ("gemm_1", "[ONNX Layer: proj/MatMul]\x1e[ONNX Layer: sum]", ["Int8", "Half"]),
        ("Reformatting CopyNode for Input Tensor 0 to conv1", "", ["UInt8"]),
        ("pool", "[ONNX Layer: pool]", ["BFloat16"]),
    )
    found = {layer.name: (layer.precision, layer.heavy) for layer in engine_layers(text, HEAVY)}
    copy = found.pop("Reformatting CopyNode for Input Tensor 0 to conv1")
    assert copy[0] == "other"
    assert found == {
        "conv1 + relu": ("fp16", True),
        "myelin_3": ("fp16", True),
        "conv10": ("fp32", True),
        "gemm_1": ("int8", True),
        "pool": ("bf16", False),
    }


def test_an_inspector_that_gives_names_only() -> None:
    assert engine_layers(json.dumps({"Layers": ["conv1", "conv2"]}), HEAVY) == []


def test_an_engine_that_fell_back_to_fp32() -> None:
    network = layer_table([Layer(f"c{n}", "CONVOLUTION", "fp16", True) for n in range(10)], "network", "fp16")
    check_precision("a graph", network, "fp16")
    kernels = [Layer(f"k{n}", "kernel", "fp32" if n < 4 else "fp16", True) for n in range(8)]
    check_precision("an engine", layer_table(kernels, "engine", "fp16"), "fp16", network)
    slow = layer_table([*kernels, Layer("k8", "kernel", "fp32", True)], "engine", "fp16")
    with pytest.raises(ProtosegError, match=r"asked for fp16, but .* compute in 4 fp16, 5 fp32"):
        check_precision("an engine", slow, "fp16", network)
    assert slow.wider == ("k0", "k1", "k2", "k3", "k8")


def test_an_int8_engine_is_held_to_what_its_network_has() -> None:
    parts = [Layer(f"c{n}", "CONVOLUTION", "int8" if n == 0 else "fp32", True) for n in range(10)]
    network = layer_table(parts, "network", "int8")
    check_precision("a graph", network, "int8")
    check_precision("an engine", network, "int8", network)
    with pytest.raises(ProtosegError, match="compute in 9 fp32"):
        check_precision("an engine", layer_table(parts[1:], "engine", "int8"), "int8", network)
