"""Whatever lies behind a path: the runtimes agree with each other, and what is no runtime is refused with one error."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting import export_bundle
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, build_segmenter, load_network, save_network
from protoseg_deploy.recipe import ClassTable, Model
from protoseg_deploy.runtimes import OnnxRuntime, PyTorchRuntime, Runtime, open_runtime

CLASSES = ClassTable(("sky", "road", "tree"), ((10, 20, 30), (0, 255, 0), (1, 2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` (best and last differ), ``bundle`` (any size) and ``fixed`` (40x56)."""
    root = tmp_path_factory.mktemp("runtimes")
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16), CLASSES, ignore_index=254
    )
    for seed, which in enumerate(("best", "last")):
        torch.manual_seed(seed)
        save_network(root / "run" / f"{which}.safetensors", build_segmenter(spec).state_dict(), spec)
    export_bundle(root / "run", root / "bundle")
    export_bundle(root / "run", root / "fixed", size=(40, 56))
    return root


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def close_to_pytorch(class_map: np.ndarray, network: Path, images: np.ndarray) -> bool:
    segmenter, _ = load_network(network)
    with torch.inference_mode():
        logits = DeployedSegmenter(segmenter).eval().full_size_logits(torch.from_numpy(images))
    best, second = logits.topk(2, dim=1).values.unbind(1)
    sure = (best - second) > 1e-4
    assert sure.float().mean() > 0.95
    return bool((torch.from_numpy(class_map).long() == logits.argmax(1))[sure].all())


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("run", "pytorch"),
        ("run/best.safetensors", "pytorch"),
        ("bundle", "onnx"),
        ("bundle/model.onnx", "onnx"),
        ("fixed", "onnx"),
    ],
)
def test_every_runtime_gives_the_same_class_maps(folder: Path, path: str, kind: str) -> None:
    runtime: Runtime = open_runtime(folder / path, device="cpu", threads=1)
    info = runtime.info
    assert (info.kind, info.device, info.threads, info.precision) == (kind, "cpu", 1, "fp32")
    assert info.classes == CLASSES
    assert info.ignore_index == 254
    segmenter, _ = load_network(folder / "run" / "best.safetensors")
    assert info.parameters == sum(p.numel() for p in segmenter.parameters())
    assert info.fixed_size == ((40, 56) if path == "fixed" else None)
    for shape in [(2, 40, 56)] if info.fixed_size else [(1, 40, 56), (2, 33, 71)]:
        images = noise(*shape)
        class_map = runtime.predict(images)
        assert class_map.dtype == np.uint8
        assert class_map.shape == shape
        assert close_to_pytorch(class_map, folder / "run" / "best.safetensors", images)
        # what `bench` times is what `predict` computes, call after call
        run = runtime.bind(images)
        for _ in range(2):
            np.testing.assert_array_equal(np.asarray(run().numpy()), class_map)
        # views of larger arrays, as tiles are
        wide = np.concatenate([images, images], axis=2)[:, :, : shape[2]]
        np.testing.assert_array_equal(runtime.predict(wide), class_map)


def test_best_and_last(folder: Path) -> None:
    images = noise(1, 40, 40)
    best, last = (open_runtime(folder / "run", which=which).predict(images) for which in ("best", "last"))
    assert (best != last).any()


@pytest.mark.parametrize("path", ["run", "bundle"])
def test_wrong_arrays_are_refused(folder: Path, path: str) -> None:
    runtime = open_runtime(folder / path, device="cpu")
    for images in (noise(40, 40), noise(1, 40, 40).astype(np.float32), noise(1, 40, 40)[..., :2], noise(0, 40, 40)):
        for call in (runtime.predict, runtime.bind):
            with pytest.raises(UsageError, match=r"uint8 RGB \[batch, height, width, 3\]"):
                call(images)


def test_fixed_size_is_said(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"40x56 pixels \(height x width\) only; got 56x40"):
        open_runtime(folder / "fixed", device="cpu").predict(noise(1, 56, 40))


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
@pytest.mark.parametrize("path", ["run", "bundle"])
def test_no_silent_fallback_from_the_gpu(folder: Path, path: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="--device cuda"):
        open_runtime(folder / path, device="cuda")
    assert open_runtime(folder / path, device="auto").info.device == "cpu"
    assert capfd.readouterr() == ("", "")


def test_auto_says_why(folder: Path) -> None:
    details = open_runtime(folder / "bundle").info.details
    assert details["device_asked"] == "auto"
    assert details["device_choice"]


def test_a_provider_that_did_not_load_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU and a broken CUDA provider ONNX Runtime would compute on the CPU without a word."""
    monkeypatch.setattr("protoseg_deploy.runtimes.onnx._PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "None"})
    monkeypatch.setattr("protoseg_deploy.runtimes.onnx.ort.preload_dlls", lambda: None)
    session = OnnxRuntime(folder / "bundle", device="cpu")._session
    monkeypatch.setattr("protoseg_deploy.runtimes.onnx._session", lambda *_: session)
    with pytest.raises(UsageError, match="would compute on the CPU"):
        OnnxRuntime(folder / "bundle", device="cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    info = OnnxRuntime(folder / "bundle", device="auto").info
    assert info.device == "cpu"
    assert "would compute on the CPU" in info.details["device_choice"]
    # nor does it count as running on the GPU if the convolutions stayed behind
    monkeypatch.setattr(
        "protoseg_deploy.runtimes.onnx._PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "CPUExecutionProvider"}
    )
    with pytest.raises(UsageError, match=r"left .*Conv.* of the network on the CPU"):
        OnnxRuntime(folder / "bundle", device="cuda")


def test_what_is_no_runtime(folder: Path, tmp_path: Path) -> None:
    graph = (folder / "bundle" / "model.onnx").read_bytes()
    foreign = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])],
            "other",
            [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
            [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=10,
    )
    files = {
        "text.onnx": (b"this is no graph", "cannot be loaded as an ONNX model"),
        "torn.onnx": (graph[: len(graph) // 2], "cannot be loaded as an ONNX model"),
        "empty.onnx": (b"", "cannot be loaded as an ONNX model"),
        "foreign.onnx": (foreign.SerializeToString(), "none of this program"),
        "text.safetensors": (b"hello", "not a network file"),
        "notes.txt": (b"hello", "is not a runtime"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ProtosegError, match=message) as caught:
            open_runtime(tmp_path / name)
        assert name in caught.value.message
        assert caught.value.hint
    with pytest.raises(UsageError, match="no such file or folder") as missing:
        open_runtime(tmp_path / "nowhere")
    assert "bundle folder" in missing.value.hint
    with pytest.raises(UsageError, match=r"neither a run nor a bundle; it holds empty\.onnx, foreign\.onnx"):
        open_runtime(tmp_path)


def test_damaged_bundles(folder: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())

    graph = (bundle / "model.onnx").read_bytes()
    for spoilt, message in [(graph[:-9], "bytes instead of"), (graph[:-1] + b"!", "its checksum differs")]:
        (bundle / "model.onnx").write_bytes(spoilt)
        with pytest.raises(ProtosegError, match=message):
            open_runtime(bundle)
    (bundle / "model.onnx").unlink()
    with pytest.raises(ProtosegError, match=r"model\.onnx is missing"):
        open_runtime(bundle)
    (bundle / "model.onnx").write_bytes(graph)

    for broken, message in [
        ("{", "damaged or of another version"),
        (json.dumps({**manifest, "format": 9}), "format"),
        (json.dumps({**manifest, "surprise": 1}), "surprise"),
    ]:
        (bundle / "manifest.json").write_text(broken)
        with pytest.raises(ProtosegError, match=message):
            open_runtime(bundle)
    (bundle / "manifest.json").unlink()
    with pytest.raises(ProtosegError, match=r"not a bundle: it has no manifest\.json"):
        open_runtime(bundle)


def test_run_without_its_network(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    with pytest.raises(ProtosegError, match=r"holds no best\.safetensors"):
        open_runtime(tmp_path)
    torn = (folder / "run" / "best.safetensors").read_bytes()[:5000]
    (tmp_path / "best.safetensors").write_bytes(torn)
    with pytest.raises(ProtosegError, match=r"best\.safetensors is not a network file"):
        PyTorchRuntime(tmp_path)
