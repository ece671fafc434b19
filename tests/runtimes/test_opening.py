"""Whatever lies behind a path: the runtimes agree with each other, and what is no runtime is refused with one error."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.bundles.finding import find_graph
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting.tracing.onnx_export import save_graph
from protoseg_deploy.models import DeployedSegmenter, load_network
from protoseg_deploy.runtimes import OnnxRuntime, PyTorchRuntime, Runtime, open_runtime, providers
from tests.runtimes.conftest import CLASSES, noise


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
        timed = runtime.predict_timed(images)
        np.testing.assert_array_equal(timed.class_map, class_map)
        assert 0 < timed.engine_ns <= timed.copies_ns <= timed.arrays_ns
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
        for call in (runtime.predict, runtime.predict_timed):
            with pytest.raises(UsageError, match=r"uint8 RGB \[batch, height, width, 3\]"):
                call(images)


def test_fixed_size_is_said(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"40x56 pixels \(height x width\) only; got 56x40"):
        open_runtime(folder / "fixed", device="cpu").predict(noise(1, 56, 40))


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_bundle_opens_in_every_precision_it_has(folder: Path, precision) -> None:
    images = noise(2, 40, 56)
    fp32 = open_runtime(folder / "bundle", device="cpu")
    low = open_runtime(folder / "bundle", device="cpu", precision=precision)
    assert (fp32.info.precision, low.info.precision) == ("fp32", precision)
    assert low.info.file_bytes == (folder / "bundle" / f"model.{precision}.onnx").stat().st_size
    assert low.info.file_bytes < 0.6 * fp32.info.file_bytes
    assert fp32.info.emulated == ""
    assert low.info.emulated.startswith(f"{precision} emulated")
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
    with pytest.raises(UsageError, match="cannot be combined with --device cpu"):
        open_runtime(folder / "bundle", backend="tensorrt-ep", device="cpu")
    with pytest.raises(UsageError, match="it cannot be combined with --device cpu"):
        open_runtime(tmp_path / "some.engine", device="cpu")


def test_a_graph_of_a_bundle_is_checked_and_verified_as_such(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each graph has a verdict of its own, and a changed one is refused even when opened as a file."""
    bundle = tmp_path / "bundle"
    shutil.copytree(folder / "bundle", bundle)
    manifest = Bundle.open(bundle).manifest
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
    Bundle.create(bundle, manifest.model_copy(update={"verification": verdict}))
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
    assert OnnxRuntime(bundle).info.verified is True
    opened = providers.open_session(find_graph(bundle), "fp32", "cpu", threads=1)
    with monkeypatch.context() as patch:
        patch.setattr("protoseg_deploy.runtimes.onnx.open_session", lambda *_: opened)
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
    manifest = Bundle.open(bundle).manifest
    name = manifest.graphs[precision].file
    files = save_graph(onnx.load(bundle / name), bundle / name, external_above=1000)
    assert files == (name, f"{name}.data")
    graphs = {**manifest.graphs, precision: manifest.graphs[precision].model_copy(update={"files": files})}
    entries = {**manifest.files, **{file: file_entry(bundle / file) for file in files}}
    Bundle.create(bundle, manifest.model_copy(update={"graphs": graphs, "files": entries}))
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
        "foreign.onnx": (foreign.SerializeToString(), "not of this program"),
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
