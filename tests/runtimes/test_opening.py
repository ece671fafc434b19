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
from protoseg_deploy.exporting.onnx_export import save_graph
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, build_segmenter, load_network, save_network
from protoseg_deploy.recipe import ClassTable, Model
from protoseg_deploy.runtimes import OnnxRuntime, PyTorchRuntime, Runtime, open_runtime, providers
from protoseg_deploy.runtimes.graphs import find_graph
from protoseg_deploy.runtimes.manifest import (
    StageVerdict,
    Verification,
    file_entry,
    read_manifest,
    write_manifest,
)
from protoseg_deploy.runtimes.onnx import _Buffers

CLASSES = ClassTable(("sky", "road", "tree"), ((10, 20, 30), (0, 255, 0), (1, 2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` (best and last differ), ``bundle`` (any size, three precisions) and ``fixed`` (40x56)."""
    root = tmp_path_factory.mktemp("runtimes")
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16), CLASSES, ignore_index=254
    )
    for seed, which in enumerate(("best", "last")):
        torch.manual_seed(seed)
        save_network(root / "run" / f"{which}.safetensors", build_segmenter(spec).state_dict(), spec)
    export_bundle(root / "run", root / "bundle", precisions=("fp32", "fp16", "bf16"))
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
    monkeypatch.setattr(providers, "PROVIDERS", {"cpu": "CPUExecutionProvider", "cuda": "None", "tensorrt": "None"})
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    session = OnnxRuntime(folder / "bundle", device="cpu")._session
    monkeypatch.setattr(providers, "_session", lambda *_: session)
    with pytest.raises(UsageError, match="would compute on the CPU"):
        OnnxRuntime(folder / "bundle", device="cuda")
    with pytest.raises(UsageError, match="would compute on the CPU") as tensorrt:
        OnnxRuntime(folder / "bundle", tensorrt=True)
    assert "TensorRT 10" in tensorrt.value.hint
    info = OnnxRuntime(folder / "bundle", device="auto").info
    assert info.device == "cpu"
    assert "would compute on the CPU" in info.details["device_choice"]


@pytest.mark.parametrize(("provider", "asked"), [("cuda", {"device": "cuda"}), ("tensorrt", {"tensorrt": True})])
def test_convolutions_left_to_another_provider_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, provider: str, asked: dict
) -> None:
    """The wanted provider is there, but the nodes are with another one."""

    class Session:
        def __init__(self, session) -> None:
            self._session = session

        def get_providers(self) -> list[str]:
            return [providers.PROVIDERS[provider], "CPUExecutionProvider"]

        def __getattr__(self, name: str):
            return getattr(self._session, name)

    session = Session(OnnxRuntime(folder / "bundle", device="cpu")._session)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(providers, "_session", lambda *_: session)
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


def test_a_folder_for_engines_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "bundle" / "model.onnx", tmp_path)
    (tmp_path / "engines").write_text("in the way")
    with pytest.raises(ProtosegError, match=r"cannot create the folder for TensorRT's engines, .*: Not a directory"):
        providers._listed("tensorrt", find_graph(tmp_path / "model.onnx"))


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
    model.graph.node.append(onnx.helper.make_node("Det", ["matrix"], ["determinant"]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("determinant", onnx.TensorProto.DOUBLE, []))
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ProtosegError, match=r"CPUExecutionProvider cannot compute .*Det") as caught:
        open_runtime(tmp_path / "model.onnx", device="cpu")
    assert "--backend" in caught.value.hint


def test_device_buffers_take_one_batch_after_the_other(folder: Path) -> None:
    """What `predict` does on a GPU, with main memory for the device's."""
    runtime = OnnxRuntime(folder / "bundle", device="cpu")
    first, second = noise(2, 24, 31), 255 - noise(2, 24, 31)
    buffers = _Buffers(runtime._session, first.shape, np.uint8, "cpu")
    results = [buffers.compute(images) for images in (first, second[:, :, ::-1][:, :, ::-1])]
    for result, images in zip(results, (first, second), strict=True):
        np.testing.assert_array_equal(result, runtime.predict(images))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_bundle_opens_in_every_precision_it_has(folder: Path, precision) -> None:
    images = noise(2, 40, 56)
    fp32 = open_runtime(folder / "bundle", device="cpu")
    low = open_runtime(folder / "bundle", device="cpu", precision=precision)
    assert (fp32.info.precision, low.info.precision) == ("fp32", precision)
    assert low.info.file_bytes == (folder / "bundle" / f"model.{precision}.onnx").stat().st_size
    assert low.info.file_bytes < 0.6 * fp32.info.file_bytes
    assert fp32.info.details["emulated"] == ""
    assert low.info.details["emulated"].startswith(f"{precision} emulated")
    class_map = low.predict(images)
    assert (class_map == fp32.predict(images)).mean() > 0.9
    same = open_runtime(folder / "bundle" / f"model.{precision}.onnx", device="cpu", precision=precision)
    np.testing.assert_array_equal(same.predict(images), class_map)


def test_precisions_and_backends_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no int8 graph; it has fp32, fp16, bf16"):
        open_runtime(folder / "bundle", precision="int8")
    with pytest.raises(UsageError, match=r"model\.fp16\.onnx is fp16, not fp32"):
        open_runtime(folder / "bundle" / "model.fp16.onnx", precision="fp32")
    for path in (folder / "run", folder / "run" / "best.safetensors"):
        with pytest.raises(UsageError, match="is fp32, not int8"):
            open_runtime(path, precision="int8")
        assert open_runtime(path, precision="fp32").info.kind == "pytorch"
    (tmp_path / "some.engine").write_bytes(b"engine")
    for path in (folder / "run", tmp_path / "some.engine"):
        for backend in ("onnxruntime", "openvino", "tensorrt-ep"):
            with pytest.raises(UsageError, match=f"--backend {backend} does not apply"):
                open_runtime(path, backend=backend)
    with pytest.raises(UsageError, match="does not go with --device cpu"):
        open_runtime(folder / "bundle", backend="tensorrt-ep", device="cpu")
    with pytest.raises(UsageError, match="--device cpu does not go with it"):
        open_runtime(tmp_path / "some.engine", device="cpu")


def test_a_graph_of_a_bundle_is_checked_and_verified_as_such(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each graph has a verdict of its own, and a changed one is refused even when opened as a file."""
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", bundle)
    manifest = read_manifest(bundle)
    assert open_runtime(bundle).info.verified is None
    stages = (
        StageVerdict(stage="onnx fp32", artefact="model.onnx", against="pytorch", status="passed"),
        StageVerdict(stage="onnx fp16", artefact="model.fp16.onnx", against="onnx fp32", status="failed"),
    )
    verdict = Verification(
        passed=False,
        images=1,
        masks=0,
        fitted_images=0,
        images_sha256="",
        miou_pytorch_percent=None,
        stages=stages,
    )
    write_manifest(bundle, manifest.model_copy(update={"verification": verdict}))
    for precision, verified in (("fp32", True), ("fp16", False), ("bf16", None)):
        file = manifest.graphs[precision].file
        assert open_runtime(bundle, precision=precision).info.verified is verified
        assert open_runtime(bundle / file).info.verified is verified
    graph = (bundle / "model.fp16.onnx").read_bytes()
    (bundle / "model.fp16.onnx").write_bytes(graph + b"\0")
    for path, precision in ((bundle, "fp16"), (bundle / "model.fp16.onnx", None)):
        with pytest.raises(ProtosegError, match="bytes instead of"):
            open_runtime(path, precision=precision)
    # the verdict is of ONNX Runtime's own kernels, not of what TensorRT makes of the graph
    session = OnnxRuntime(bundle)._session
    opened = providers.Opened(session, "cpu", "", "", {})
    monkeypatch.setattr("protoseg_deploy.runtimes.onnx.open_session", lambda *_: opened)
    assert OnnxRuntime(bundle).info.verified is True
    assert OnnxRuntime(bundle, tensorrt=True).info.verified is None
    # alone, or beside the manifest of something else, a graph is complete but unverified
    (bundle / "model.fp16.onnx").write_bytes(graph)
    (bundle / "manifest.json").write_text('{"name": "a web page"}')
    assert open_runtime(bundle / "model.onnx").info.verified is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_outside_the_graph(folder: Path, tmp_path: Path, precision) -> None:
    """As above 2 GB: weights in a file of their own, which is checked like the graph."""
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", bundle)
    manifest = read_manifest(bundle)
    name = manifest.graphs[precision].file
    files = save_graph(onnx.load(bundle / name), bundle / name, external_above=1000)
    assert files == (name, f"{name}.data")
    graphs = {**manifest.graphs, precision: manifest.graphs[precision].model_copy(update={"files": files})}
    entries = {**manifest.files, **{file: file_entry(bundle / file) for file in files}}
    write_manifest(bundle, manifest.model_copy(update={"graphs": graphs, "files": entries}))
    images = noise(1, 40, 40)
    expected = open_runtime(folder / "bundle", precision=precision)
    runtime = open_runtime(bundle, precision=precision)
    np.testing.assert_array_equal(runtime.predict(images), expected.predict(images))
    assert runtime.info.file_bytes == sum((bundle / file).stat().st_size for file in files)
    weights = bytearray((bundle / f"{name}.data").read_bytes())
    weights[7] ^= 1
    (bundle / f"{name}.data").write_bytes(weights)
    with pytest.raises(ProtosegError, match=r"\.data is not the file the manifest describes: its checksum differs"):
        open_runtime(bundle, precision=precision)


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
