"""The inference backend: the provider that was asked for, or an error; never another one silently."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from protoseg_deploy.bundles.finding import find_graph
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes import OnnxRuntime, open_runtime, providers
from protoseg_deploy.runtimes.device_buffers import DeviceBuffers
from protoseg_deploy.runtimes.stopwatch import no_mark
from tests.runtimes.conftest import CPU, noise


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
@pytest.mark.parametrize("path", ["run", "bundle"])
def test_no_silent_fallback_from_the_gpu(folder: Path, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        open_runtime(folder / path, device="cuda")
    assert open_runtime(folder / path, device="auto").info.device == "cpu"
    assert capfd.readouterr() == ("", "")


def test_auto_says_why(folder: Path) -> None:
    assert open_runtime(folder / "bundle").info.device_choice


@pytest.mark.usefixtures("fallen_back")
def test_a_provider_that_did_not_load_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match="would compute on the CPU"):
        OnnxRuntime(folder / "bundle", device="cuda")
    with pytest.raises(UsageError, match="would compute on the CPU") as tensorrt:
        OnnxRuntime(folder / "bundle", tensorrt=True)
    assert "TensorRT 10" in tensorrt.value.hint
    info = OnnxRuntime(folder / "bundle", device="auto").info
    assert info.device == "cpu"
    assert "would compute on the CPU" in info.device_choice


@pytest.mark.usefixtures("named_otherwise")
@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"tensorrt": True}], ids=["cuda", "tensorrt"])
def test_convolutions_left_to_another_provider_are_an_error(folder: Path, asked: dict) -> None:
    with pytest.raises(UsageError, match=r"left .*\d+ Conv.* of the network to other providers"):
        OnnxRuntime(folder / "bundle", **asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_tensorrt_provider_without_its_libraries(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="no GPU was found"):
        open_runtime(folder / "bundle", backend="tensorrt-ep")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(UsageError, match="--backend tensorrt-ep: ONNX Runtime cannot load its Tensorrt"):
        open_runtime(folder / "bundle", backend="tensorrt-ep")
    assert capfd.readouterr() == ("", "")


def test_engines_of_retrained_networks_are_not_mixed_up(folder: Path, tmp_path: Path, monkeypatch) -> None:
    """Same structure, other weights: ONNX Runtime gives both engines the same name."""
    graph = folder / "bundle" / "model.onnx"
    retrained = bytearray(graph.read_bytes())
    retrained[len(retrained) // 2] ^= 1
    (tmp_path / "model.onnx").write_bytes(retrained)
    cache = providers.engine_cache(find_graph(folder / "bundle"))
    assert cache == providers.engine_cache(find_graph(graph))
    assert cache.is_relative_to(folder / "bundle")
    assert cache.name != providers.engine_cache(find_graph(tmp_path / "model.onnx")).name
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert providers.engine_cache(find_graph(graph)) == tmp_path / "cache" / "protoseg" / "tensorrt-ep" / cache.name


@pytest.mark.usefixtures("fallen_back")
def test_a_folder_for_engines_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "bundle" / "model.onnx", tmp_path)
    (tmp_path / "engines").write_text("in the way")
    with pytest.raises(ProtosegError, match=r"cannot create the folder for TensorRT's engines, .*: Not a directory"):
        OnnxRuntime(tmp_path / "model.onnx", tensorrt=True)


def test_a_plain_error_of_the_cpu_provider_is_a_graph_it_cannot_load(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("something native")

    monkeypatch.setattr(providers.ort, "InferenceSession", fail)
    with pytest.raises(ProtosegError, match="cannot be loaded as an ONNX model: something native"):
        OnnxRuntime(folder / "bundle", device="cpu")


def test_a_graph_without_kernels_is_not_called_damaged(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "bundle" / "model.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(2), "matrix"))
    last = next(node for node in model.graph.node if "class_map" in node.output)
    last.output[:] = ["whole"]
    model.graph.node.extend(
        [
            onnx.helper.make_node("Det", ["matrix"], ["determinant"]),
            onnx.helper.make_node("Cast", ["determinant"], ["one"], to=onnx.TensorProto.UINT8),
            onnx.helper.make_node("Mul", ["whole", "one"], ["class_map"]),
        ]
    )
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ProtosegError, match=r"CPUExecutionProvider cannot compute .*Det") as caught:
        open_runtime(tmp_path / "model.onnx", device="cpu")
    assert "--backend" in caught.value.hint


def test_device_buffers_take_one_batch_after_the_other(folder: Path) -> None:
    """What `predict` does on a GPU, with main memory for the device's."""
    runtime = OnnxRuntime(folder / "bundle", device="cpu")
    first, second = noise(2, 24, 31), 255 - noise(2, 24, 31)
    session = ort.InferenceSession(folder / "bundle" / "model.onnx", providers=[CPU])
    buffers = DeviceBuffers(session, first.shape, np.uint8, "cpu", lambda run: run(None))
    results = [buffers.compute(images, no_mark) for images in (first, second[:, :, ::-1][:, :, ::-1])]
    for result, images in zip(results, (first, second), strict=True):
        np.testing.assert_array_equal(result, runtime.predict(images))
