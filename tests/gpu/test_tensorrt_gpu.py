"""Engines on a GPU: the same class maps as ONNX Runtime, at every shape, by every way in."""

from pathlib import Path

import numpy as np
import pytest
import torch

from protoseg_deploy.errors import UsageError
from protoseg_deploy.exporting.engines.building import build_engine
from protoseg_deploy.exporting.engines.options import EngineOptions
from protoseg_deploy.runtimes import OnnxRuntime, open_runtime
from protoseg_deploy.runtimes.tensorrt import Profile, TensorRTRuntime, load_library, read_sidecar
from tests.exporting.families import FAMILIES, exported, pictures

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

PROFILE = Profile(min=(1, 64, 64), opt=(2, 96, 128), max=(3, 160, 192))
SMALL = next(family for family in FAMILIES if family.backbone == "resnet10t")
KINDS = ("tensorrt", "tensorrt-rtx")
# Least share of equal pixels: fp32 may compute its products in TF32.
AGREEMENT = {"fp32": 0.995, "fp16": 0.99, "bf16": 0.95}


def options(kind: str, **changes: object) -> EngineOptions:
    try:
        load_library(kind)
    except UsageError as error:
        pytest.skip(error.message)
    if kind == "tensorrt-rtx" and torch.cuda.get_device_capability() not in {(8, 0), (8, 6), (8, 9), (12, 0), (12, 1)}:
        pytest.skip("TensorRT-RTX does not support this GPU")
    return EngineOptions(kind, **{"profile": PROFILE, **changes})


@pytest.fixture(scope="module", params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param) / "fp16.engine"
    build_engine(exported(SMALL, "fp16"), path, options(request.param))
    return path


def agreement(found: np.ndarray, expected: np.ndarray) -> float:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float((found == expected).mean())


@pytest.mark.parametrize("precision", list(AGREEMENT))
@pytest.mark.parametrize("kind", KINDS)
def test_engines_agree_with_onnx_runtime(tmp_path: Path, kind: str, precision: str) -> None:
    path = tmp_path / "x.engine"
    sidecar = build_engine(exported(SMALL, precision), path, options(kind))
    assert sidecar.gpu == torch.cuda.get_device_name()
    assert sidecar.driver
    assert sidecar.layers.heavy.get(precision, 0) > 0
    runtime = open_runtime(path)
    assert runtime.info.device == "cuda"
    expected = OnnxRuntime(exported(SMALL, precision), device="cpu")
    # Shapes come and go and come again: buffers grow, recorded launches are dropped.
    for batch, height, width in [(1, 64, 64), (1, 64, 64), (3, 160, 192), (2, 97, 131), (1, 64, 64), (3, 160, 192)]:
        images = pictures(batch, height, width, seed=batch + height)
        assert agreement(runtime.predict(images), expected.predict(images)) >= AGREEMENT[precision]


def test_a_repeated_shape_gives_the_same_for_the_same_and_other_for_other_images(engine: Path) -> None:
    runtime = open_runtime(engine)
    first, second = pictures(1, 96, 128, seed=1), pictures(1, 96, 128, seed=2)
    once = runtime.predict(first)
    for _ in range(5):
        np.testing.assert_array_equal(runtime.predict(first), once)
    assert (runtime.predict(second) != once).any()
    np.testing.assert_array_equal(runtime.predict(first), once)


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_timed_calls_give_the_same_and_their_spans_are_nested(engine: Path, cuda_graph: bool) -> None:
    runtime = open_runtime(engine, cuda_graph=cuda_graph)
    batches = [pictures(1, 96, 128, seed=seed) for seed in range(2)]
    expected = [runtime.predict(images) for images in batches]
    for number in (0, 0, 0, 1, 0, 1, 1, 1):
        timed = runtime.predict_timed(batches[number])
        np.testing.assert_array_equal(timed.class_map, expected[number])
        assert 0 < timed.engine_ns <= timed.copies_ns <= timed.arrays_ns
        assert timed.launch_ns > 0
    assert runtime.info.cuda_graph == cuda_graph


def test_tensors_on_the_gpu_are_read_in_place(engine: Path) -> None:
    runtime = TensorRTRuntime(engine)
    images = pictures(3, 96, 128)
    expected = runtime.predict(images)
    placed = torch.from_numpy(images).cuda()
    found = runtime.predict_tensor(placed)
    assert found.is_cuda
    np.testing.assert_array_equal(found.cpu().numpy(), expected)
    # What follows on the caller's stream sees the result, what came before on it is seen.
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        later = torch.zeros_like(placed)
        torch.cuda._sleep(50_000_000)
        later.copy_(placed)
        counted = (runtime.predict_tensor(later) == torch.from_numpy(expected).cuda()).all()
    side.synchronize()
    assert bool(counted)
    mirrored = placed.permute(0, 2, 1, 3)
    np.testing.assert_array_equal(
        runtime.predict_tensor(mirrored).cpu().numpy(),
        runtime.predict(np.ascontiguousarray(images.transpose(0, 2, 1, 3))),
    )
    for wrong in (placed.cpu(), placed.float(), placed[0]):
        with pytest.raises(UsageError, match="predict_tensor takes uint8"):
            runtime.predict_tensor(wrong)


def test_shapes_outside_the_profile_are_refused(engine: Path) -> None:
    runtime = open_runtime(engine)
    assert runtime.info.size_range == ((64, 64), (160, 192))
    with pytest.raises(UsageError, match="takes a batch of 1 to 3; got 4"):
        runtime.predict(pictures(4, 64, 64))
    with pytest.raises(UsageError, match="takes a width of 64 to 192; got 200"):
        TensorRTRuntime(engine).predict_tensor(torch.zeros(1, 64, 200, 3, dtype=torch.uint8, device="cuda"))


def test_the_timing_cache_is_kept(tmp_path: Path) -> None:
    first = build_engine(exported(SMALL, "fp16"), tmp_path / "a.engine", options("tensorrt"))
    (cache,) = tmp_path.glob("timing-*.cache")
    kept = cache.read_bytes()
    second = build_engine(exported(SMALL, "fp16"), tmp_path / "b.engine", options("tensorrt"))
    assert second.build_seconds < first.build_seconds
    assert len(cache.read_bytes()) >= len(kept)


@pytest.mark.parametrize("flag", ["version_compatible", "hardware_compatible"])
def test_compatible_engines_run_here_too(tmp_path: Path, flag: str) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("hardware-compatible engines start at compute capability 8.0")
    path = tmp_path / "x.engine"
    build_engine(exported(SMALL, "fp16"), path, options("tensorrt", **{flag: True}))
    assert getattr(read_sidecar(path), flag)
    images = pictures(1, 96, 128)
    expected = OnnxRuntime(exported(SMALL, "fp16"), device="cpu").predict(images)
    assert agreement(open_runtime(path).predict(images), expected) >= AGREEMENT["fp16"]
