"""The emulation rounds every result to its type, exactly as PyTorch does, and nothing optimises that away."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu
from protoseg_deploy.runtimes.rounding import emulate_rounding, has_low_precision

TYPES = {torch.float16: TensorProto.FLOAT16, torch.bfloat16: TensorProto.BFLOAT16}


def graph(nodes: list[onnx.NodeProto], weights: dict[str, Tensor], dtype: torch.dtype) -> onnx.ModelProto:
    """float32 ``x`` ``[N,C,H,W]``, cast to `dtype` as ``a``; ``b``, as made by `nodes`, cast to float32 ``y``."""
    shape = ["n", "c", "h", "w"]
    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=TYPES[dtype]),
        *nodes,
        helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
    ]
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    stored = []
    for name, weight in weights.items():
        content = weight.to(dtype).view(torch.uint16).numpy().tobytes()
        stored.append(helper.make_tensor(name, TYPES[dtype], weight.shape, content, raw=True))
    made = helper.make_graph(nodes, "g", [inputs], [outputs], stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def run(source: Path | bytes, x: Tensor, folder: Path | None = None) -> Tensor:
    options = ort.SessionOptions()
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["y"], {"x": x.numpy()})[0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 8


@pytest.mark.parametrize("dtype", TYPES)
def test_arithmetic_is_rounded_after_each_node(tmp_path: Path, dtype: torch.dtype) -> None:
    nodes = [
        helper.make_node("Mul", ["a", "a"], ["square"]),
        helper.make_node("Add", ["square", "a"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["moved"], perm=[0, 1, 3, 2]),
        helper.make_node("Mul", ["moved", "s"], ["b"]),
    ]
    scale = torch.tensor([0.37]).to(dtype)
    path = tmp_path / "model.onnx"
    onnx.save(graph(nodes, {"s": scale}, dtype), path)
    x = noise(2, 3, 50, 70)
    a = x.to(dtype)
    expected = ((a * a + a).transpose(2, 3) * scale).float()
    assert torch.equal(run(loadable_on_cpu(path), x), expected)
    in_float32 = (x * x + x).transpose(2, 3) * 0.37
    assert not torch.equal(expected, in_float32)


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_are_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    """A convolution accumulates in float32 and rounds its result: at most the last digit differs from exact."""
    nodes = [
        helper.make_node("Conv", ["a", "w", "bias"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["b"]),
    ]
    weight, bias = noise(4, 3, 3, 3, seed=1).to(dtype), noise(4, seed=2).to(dtype)
    path = tmp_path / "model.onnx"
    onnx.save(graph(nodes, {"w": weight, "bias": bias}, dtype), path)
    x = noise(1, 3, 20, 30)
    found = run(loadable_on_cpu(path), x)
    exact = torch.conv2d(x.to(dtype).double(), weight.double(), bias.double(), padding=1).relu()
    assert torch.equal(found, found.to(dtype).float())
    step = torch.finfo(dtype).eps
    assert bool(((found - exact).abs() <= 0.51 * step * exact.abs() + 1e-4).all())


def test_overflow_shows(tmp_path: Path) -> None:
    """300 squared is beyond float16, though the last result is not; ONNX Runtime alone does not notice."""
    nodes = [helper.make_node("Mul", ["a", "a"], ["square"]), helper.make_node("Mul", ["square", "s"], ["b"])]
    path = tmp_path / "model.onnx"
    onnx.save(graph(nodes, {"s": torch.tensor([1 / 1024]).half()}, torch.float16), path)
    assert run(loadable_on_cpu(path), torch.full((1, 1, 1, 1), 300.0)).item() == float("inf")


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    weight = noise(4, 3, 3, 3, seed=1).bfloat16()
    model = graph([helper.make_node("Conv", ["a", "w"], ["b"])], {"w": weight}, torch.bfloat16)
    x = noise(1, 3, 20, 30)
    expected = run(emulate_rounding(model).SerializeToString(), x)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=0)
    content = loadable_on_cpu(tmp_path / "model.onnx")
    assert torch.equal(run(content, x, tmp_path), expected)


def test_float32_graphs_are_not_changed(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    weight = numpy_helper.from_array(np.ones(1, np.float32), "w")
    made = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [value], [other], [weight])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    assert not has_low_precision(model)
    assert loadable_on_cpu(tmp_path / "model.onnx") == model.SerializeToString()
