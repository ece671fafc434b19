"""ONNX Runtime's CUDA and TensorRT providers: the same class maps, on the GPU, from memory that is used again."""

from pathlib import Path

import numpy as np
import pytest
import torch

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.exporting import export_bundle
from protoseg_deploy.models.saved import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Model
from protoseg_deploy.runtimes.device_buffers import DeviceBuffers
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.providers import PROVIDERS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("onnx-gpu")
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16),
        ClassTable(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0))),
    )
    torch.manual_seed(0)
    network = build_segmenter(spec)
    torch.nn.init.normal_(network.head.weight, std=3.0)  # so that more than one class is predicted
    save_network(root / "run" / "best.safetensors", network.state_dict(), spec)
    export_bundle(root / "run", root / "bundle", precisions=("fp32", "fp16", "bf16"))
    return root / "bundle"


def opened(bundle: Path, provider: str, precision: str) -> OnnxRuntime:
    """The runtime; a skip where ONNX Runtime's libraries or its bf16 kernels are not there, which is said."""
    backend = "tensorrt-ep" if provider == "tensorrt" else "onnxruntime"
    try:
        runtime = open_runtime(bundle, device="cuda", precision=precision, backend=backend)
    except ProtosegError as error:
        if "cannot load its" in error.message or (precision == "bf16" and "cannot compute" in error.message):
            pytest.skip(error.message)
        raise
    assert isinstance(runtime, OnnxRuntime)
    return runtime


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_class_maps_are_those_of_the_cpu(bundle: Path, provider: str, precision: str) -> None:
    reference = open_runtime(bundle, device="cpu", precision=precision)
    runtime = opened(bundle, provider, precision)
    assert runtime.info.device == "cuda"
    assert PROVIDERS[provider] in runtime.info.backend
    assert runtime.info.emulated == ""
    first, second = noise(0, 2, 64, 96), noise(1, 2, 64, 96)
    lowest = 0.99 if precision == "fp32" else 0.97  # in fp32 a GPU may multiply in TF32
    results = [runtime.predict(images) for images in (first, second, first)]
    np.testing.assert_array_equal(results[0], results[2])
    assert (results[0] != results[1]).any()
    for images, result in ((first, results[0]), (second, results[1]), (noise(2, 1, 40, 72), None)):
        found = runtime.predict(images) if result is None else result
        assert found.dtype == np.uint8
        assert (found == reference.predict(images)).mean() >= lowest
    timed = runtime.predict_timed(first)
    np.testing.assert_array_equal(timed.class_map, results[0])
    assert 0 < timed.engine_ns <= timed.copies_ns <= timed.arrays_ns


def test_memory_is_allocated_once_for_a_size(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    class Counted(DeviceBuffers):
        def __init__(self, session: object, shape: tuple[int, ...], *rest: object) -> None:
            shapes.append(shape)
            super().__init__(session, shape, *rest)

    monkeypatch.setattr("protoseg_deploy.runtimes.onnx.DeviceBuffers", Counted)
    runtime = opened(bundle, "cuda", "fp32")
    for images in (noise(0, 1, 64, 64), noise(1, 1, 64, 64), noise(1, 1, 64, 96)):
        runtime.predict(images)
    assert shapes == [(1, 64, 64, 3), (1, 64, 96, 3)]


def test_engines_are_kept(bundle: Path) -> None:
    runtime = opened(bundle, "tensorrt", "fp32")
    cache = runtime.info.engine_cache
    assert cache.is_relative_to(bundle)
    expected = runtime.predict(noise(0, 1, 64, 64))
    del runtime  # ONNX Runtime writes its caches at the latest when the session ends
    engines = {path: path.stat().st_mtime_ns for path in cache.glob("*.engine")}
    assert engines
    again = opened(bundle, "tensorrt", "fp32")
    np.testing.assert_array_equal(again.predict(noise(0, 1, 64, 64)), expected)
    assert {path: path.stat().st_mtime_ns for path in cache.glob("*.engine")} == engines
