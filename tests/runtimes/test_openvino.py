"""OpenVINO computes the same graphs as ONNX Runtime, in the precision that the graph has."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes import open_runtime
from tests.exporting.families import FAMILIES, Family, exported

openvino = pytest.importorskip("openvino")

from protoseg_deploy.runtimes import openvino as openvino_module  # noqa: E402
from protoseg_deploy.runtimes.openvino import OpenVinoRuntime, why_no_bf16  # noqa: E402

pytestmark = pytest.mark.usefixtures("traced_once")

CAPABILITIES = openvino_module.shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
ROOT = Path(__file__).resolve().parents[2]
NO_BF16 = why_no_bf16()


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    return folder / "bundle"


def patches(seed: int, batch: int, height: int, width: int) -> np.ndarray:
    """Squares of 8x8 pixels in random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (batch, -(-height // 8), -(-width // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(small.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_every_family_gives_the_class_maps_of_onnxruntime(family: Family, precision) -> None:
    if precision == "bf16" and NO_BF16:
        pytest.skip(NO_BF16)
    runtime = OpenVinoRuntime(exported(family, precision), threads=1)
    images = patches(0, 2, *(family.size or (97, 131)))
    session = onnxruntime.InferenceSession(exported(family), providers=["CPUExecutionProvider"])
    expected, logits = session.run(["class_map", "logits"], {"images": images})
    found = runtime.predict(images)
    layers = runtime.info.layer_types
    if precision == "fp32":
        assert layers.keys() == {"f32"}
        ordered = np.sort(logits, axis=1)
        sure = ordered[:, -1] - ordered[:, -2] > 1e-3 * logits.std()
        assert sure.mean() > 0.95
        np.testing.assert_array_equal(found[sure], expected[sure])
        assert runtime.info.emulated == ""
    else:
        assert (found == expected).mean() > 0.93
        assert "bf16" in layers
        assert runtime.info.emulated == ""


def test_it_is_a_runtime_like_the_others(bundle: Path) -> None:
    runtime = open_runtime(bundle, backend="openvino", threads=1)
    reference = open_runtime(bundle, device="cpu", threads=1)
    assert runtime.info.backend.startswith("OpenVINO 20")
    for name in ("classes", "ignore_index", "precision", "device", "threads", "parameters", "file_bytes", "verified"):
        assert getattr(runtime.info, name) == getattr(reference.info, name), name
    first, second = patches(1, 2, 40, 56), patches(2, 2, 40, 56)
    class_map = runtime.predict(first)
    assert class_map.dtype == np.uint8
    assert len(np.unique(class_map)) > 1
    kept = class_map.copy()
    np.testing.assert_array_equal(class_map, reference.predict(first))
    np.testing.assert_array_equal(runtime.predict(second), reference.predict(second))
    np.testing.assert_array_equal(class_map, kept)  # a result is the caller's own
    timed = runtime.predict_timed(first)
    np.testing.assert_array_equal(timed.class_map, class_map)
    assert 0 < timed.engine_ns <= timed.copies_ns <= timed.arrays_ns
    other = patches(3, 1, 33, 71)
    other.flags.writeable = False
    for images in (other, other[:, ::-1], second[:, :, 8:40]):
        np.testing.assert_array_equal(runtime.predict(images), reference.predict(images))
    with pytest.raises(UsageError, match="uint8 RGB"):
        runtime.predict(first[0])


@pytest.mark.skipif("FP16" in CAPABILITIES, reason="this processor computes fp16")
def test_fp16_is_said_to_be_computed_otherwise(bundle: Path) -> None:
    """OpenVINO would take bf16 for it, of three bits less, silently."""
    runtime = open_runtime(bundle, backend="openvino", precision="fp16", threads=1)
    assert runtime.info.layer_types.keys() == {"f32"}
    assert "fp16 not computed as such" in runtime.info.emulated


@pytest.fixture(params=["processor", "variable"])
def no_bf16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a processor without bf16 says of itself, or one that has it and oneDNN is kept from it."""
    if request.param == "variable":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # read by oneDNN at its first call, here at each
        return

    core = openvino_module.shared_core()

    class Core:
        compile_model = core.compile_model

        def get_property(self, *arguments):
            found = core.get_property(*arguments)
            return [name for name in found if name != "BF16"] if "OPTIMIZATION_CAPABILITIES" in arguments else found

    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(openvino_module, "shared_core", Core)


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals on this system")
def test_a_signal_reaches_its_handler_after_runtimes_have_come_and_gone(bundle: Path) -> None:
    """A core of OpenVINO brings back the stack of signal handlers that it found, also one that is gone by then."""
    program = (
        "import pathlib, signal, sys\n"
        "from protoseg_deploy.runtimes import open_runtime\n"
        "caught = []\n"
        "signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))\n"
        "def runtime():\n"
        "    return open_runtime(pathlib.Path(sys.argv[1]), backend='openvino', threads=1)\n"
        "first, second = runtime(), runtime()\n"
        "del first\n"
        "del second\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
        "assert caught == [1]\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(bundle)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("no_bf16")
def test_bf16_is_refused_before_anything_is_computed_where_the_processor_has_none(bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(patches(0, 1, 40, 56)[0]).save(tmp_path / "image.png")
    image, run = str(tmp_path / "image.png"), CliRunner().invoke
    arguments = [str(bundle), image, "--out", str(tmp_path / "out"), "--precision", "bf16", "--backend", "openvino"]
    for verb in (["predict", *arguments], ["bench", f"{bundle}@bf16@openvino", "--size", "64"]):
        result = run(cli, verb)
        assert result.exit_code == 2
        assert result.stderr.count("OpenVINO cannot compute bf16 on this processor") == 1
        assert "--backend onnxruntime" in result.stderr
    assert not (tmp_path / "out").exists()
    assert open_runtime(bundle, backend="openvino", threads=1).predict(patches(1, 1, 40, 56)).shape == (1, 40, 56)


@pytest.mark.usefixtures("no_bf16")
def test_verify_goes_on_without_what_the_processor_cannot_compute(bundle: Path, tmp_path: Path) -> None:
    mine, images = shutil.copytree(bundle, tmp_path / "mine"), tmp_path / "images"
    images.mkdir()
    Image.fromarray(patches(0, 1, 40, 56)[0]).save(images / "image.png")
    result = CliRunner().invoke(cli, ["verify", str(mine), "--images", str(images), "--backend", "openvino", "--json"])
    stages = {stage["stage"]: stage for stage in json.loads(result.stdout)["stages"]}
    assert stages["openvino bf16"]["status"] == "not run"
    assert "cannot compute bf16 on this processor" in stages["openvino bf16"]["reasons"][0]
    assert stages["openvino fp32"]["status"] == "passed"


@pytest.mark.usefixtures("no_bf16")
def test_export_says_that_openvino_will_not_run_the_bf16_graph(bundle: Path, tmp_path: Path) -> None:
    network = bundle.parent / "run" / "best.safetensors"
    wanted = ["export", str(network), "--bundle", str(tmp_path / "made"), "--no-verify", "--precision"]
    assert "OpenVINO cannot compute bf16 on this processor" in CliRunner().invoke(cli, [*wanted, "bf16"]).stderr
    assert "OpenVINO" not in CliRunner().invoke(cli, [*wanted, "fp32"]).stderr


def test_openvino_is_not_installed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match="OpenVINO is not installed") as caught:
        open_runtime(bundle, backend="openvino")
    assert "protoseg-deploy[openvino]" in caught.value.hint


def test_openvino_has_no_gpu(bundle: Path) -> None:
    with pytest.raises(UsageError, match="it cannot be combined with --device cuda"):
        open_runtime(bundle, backend="openvino", device="cuda")


def test_a_graph_that_openvino_cannot_run(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Unheard", "of"
    onnx.save(model, tmp_path / "strange.onnx")
    with pytest.raises(ProtosegError, match=r"OpenVINO cannot run .*strange\.onnx: .*\w") as caught:
        open_runtime(tmp_path / "strange.onnx", backend="openvino")
    assert "--backend onnxruntime" in caught.value.hint
    assert "Exception from" not in caught.value.message
    (tmp_path / "text.onnx").write_bytes(b"this is no graph")
    with pytest.raises(ProtosegError, match="cannot be loaded as an ONNX model"):
        open_runtime(tmp_path / "text.onnx", backend="openvino")
