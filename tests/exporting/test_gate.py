"""Every precision against the fp32 graph: sound ones pass, a fault in one is found there and nowhere else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.manifest import EngineEntry, graph_file
from protoseg_deploy.choices import PRECISIONS
from protoseg_deploy.cli import cli
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.samples import run_samples
from protoseg_deploy.exporting import VerificationFailedError, bisect_graph, export_bundle, verify_bundle
from protoseg_deploy.exporting.engines.building import build_into_bundle
from protoseg_deploy.exporting.engines.options import EngineOptions
from protoseg_deploy.exporting.gate import stages
from protoseg_deploy.models import load_network, save_network
from protoseg_deploy.runtimes import open_runtime
from protoseg_deploy.runtimes.openvino import why_no_bf16
from protoseg_deploy.runtimes.tensorrt import Profile
from tests.exporting.planting import align_the_corners, beyond_fp16, double_a_scale, edit_graph, swap_red_and_blue

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def bundle(every_precision: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(every_precision, tmp_path / "bundle")


def outcome(bundle: Path, colour_run: Path) -> dict[str, str]:
    return {stage.stage: stage.status for stage in verify_bundle(Bundle.open(bundle), run_samples(colour_run)).stages}


def _is_ampere() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == (8, 6)


def test_all_precisions_pass(every_precision: Path) -> None:
    manifest = Bundle.open(every_precision).manifest
    verification = manifest.verification
    assert [stage.stage for stage in verification.stages] == [f"onnx {precision}" for precision in PRECISIONS]
    assert {stage.against for stage in verification.stages[1:]} == {"onnx fp32"}
    assert all(manifest.verified(graph_file(precision)) for precision in PRECISIONS)
    emulated = {stage.stage: stage.emulated for stage in verification.stages}
    assert emulated == {"onnx fp32": False, "onnx fp16": True, "onnx bf16": True, "onnx int8": False}
    for precision in PRECISIONS:
        info = open_runtime(every_precision, device="cpu", precision=precision).info
        assert (info.precision, info.verified) == (precision, True)
    # precisions that differ in name only would agree to the last pixel
    sizes = {precision: manifest.files[graph_file(precision)].bytes for precision in PRECISIONS}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert sizes["bf16"] < 0.6 * sizes["fp32"]
    assert sizes["int8"] < 0.4 * sizes["fp32"]


def test_a_wrong_scale_is_found_in_int8(bundle: Path, colour_run: Path) -> None:
    edit_graph(bundle, "model.int8.onnx", double_a_scale)
    statuses = outcome(bundle, colour_run)
    assert statuses.pop("onnx int8") == "failed"
    assert set(statuses.values()) == {"passed"}
    failed = Bundle.open(bundle).manifest.verification.first_failure()
    assert failed.stage == "onnx int8"
    assert "--bisect int8" in failed.next_step
    image = run_samples(colour_run)[0].image
    found = bisect_graph(Bundle.open(bundle), "int8", image)
    assert found.culprit is not None
    assert found.culprit.kind == "Conv"
    assert found.culprit.gain == pytest.approx(2, abs=0.4)  # not quite: what is too large is cut off


def test_an_overflow_is_found_in_fp16(colour_run: Path, tmp_path: Path) -> None:
    """The fp32 graph of such a network is sound, and so is bf16, which has the range of fp32."""
    run = shutil.copytree(colour_run, tmp_path / "run")
    segmenter, spec = load_network(run / "best.safetensors")
    beyond_fp16(segmenter)
    save_network(run / "best.safetensors", segmenter.state_dict(), spec)
    with pytest.raises(VerificationFailedError, match="`onnx fp16` does not match `onnx fp32`") as caught:
        export_bundle(run, tmp_path / "bundle", precisions=("fp32", "fp16", "bf16"), samples=run_samples(run))
    assert not (tmp_path / "bundle").exists()
    statuses = {stage.stage: stage.status for stage in caught.value.verification.stages}
    assert statuses == {"onnx fp32": "passed", "onnx fp16": "failed", "onnx bf16": "passed"}
    assert ".tmp" not in caught.value.hint
    assert f"protoseg verify {caught.value.kept} --images DIR --bisect fp16" in caught.value.hint
    assert str(tmp_path) not in (caught.value.kept / "manifest.json").read_text()
    found = bisect_graph(Bundle.open(caught.value.kept), "fp16", run_samples(run)[0].image)
    assert found.culprit is not None
    assert found.culprit.output_db < 0


@pytest.mark.parametrize("fault", [swap_red_and_blue, align_the_corners])
def test_a_fault_in_the_first_graph_is_not_blamed_on_later_ones(bundle: Path, colour_run: Path, fault) -> None:
    """Spoilt everywhere alike, as by an exporter that is wrong from the start."""
    for precision in PRECISIONS:
        edit_graph(bundle, graph_file(precision), fault)
    arguments = ["verify", str(bundle), "--images", str(colour_run.parent / "data" / "images")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "`onnx fp32` does not match `pytorch`" in result.stderr
    assert "--bisect fp32" in result.stderr
    manifest = Bundle.open(bundle).manifest
    assert manifest.verification.first_failure().stage == "onnx fp32"
    # what was made from a faulty graph is not verified, however faithful a copy it is
    assert not any(manifest.verified(graph_file(precision)) for precision in PRECISIONS)


def test_a_sound_graph_has_no_culprit(every_precision: Path, colour_run: Path) -> None:
    image = run_samples(colour_run)[0].image
    for precision in PRECISIONS:
        found = bisect_graph(Bundle.open(every_precision), precision, image)
        assert found.culprit is None, (precision, found.summary())
        assert found.compared > 20
    arguments = ["verify", str(every_precision), "--images", str(image.parent), "--bisect", "fp16"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0
    assert "faithful copy" in result.stdout


def test_manifest_lists_all_graphs(every_precision: Path) -> None:
    document = json.loads((every_precision / "manifest.json").read_text())
    assert document["format"] == 2
    assert list(document["graphs"]) == list(PRECISIONS)
    assert document["graphs"]["int8"]["conversion"]["method"] == "percentile"


def test_what_tensorrt_takes_for_int8_is_a_stage_of_its_own(bundle: Path, colour_run: Path) -> None:
    """TensorRT's int8 is symmetric: another graph, verified on a CPU before any GPU sees it."""
    pytest.importorskip("tensorrt_rtx")
    shape = (1, 64, 64)
    options = EngineOptions("tensorrt-rtx", target_sm=("8.6",), profile=Profile(min=shape, opt=shape, max=shape))
    built = build_into_bundle(Bundle.open(bundle), "int8", options)
    manifest = Bundle.open(bundle).manifest
    twin = manifest.engines[built.name].graph
    assert manifest.verified(twin) is None
    statuses = outcome(bundle, colour_run)
    assert statuses.pop(f"engine {built.name}") == ("passed" if _is_ampere() else "not run")
    assert set(statuses.values()) == {"passed"}
    stage = Bundle.open(bundle).manifest.verification.stage("symmetric int8")
    assert (stage.artefact, stage.against) == (twin, "onnx fp32")
    assert Bundle.open(bundle).manifest.verified(twin) is True

    edit_graph(bundle, twin, swap_red_and_blue)
    statuses = outcome(bundle, colour_run)
    assert statuses["symmetric int8"] == "failed"
    assert statuses["onnx int8"] == "passed"
    assert Bundle.open(bundle).manifest.verified(f"engines/{built.name}.engine") is False
    # built again, an engine is of the graph as it should be, and its earlier verdict is gone
    build_into_bundle(Bundle.open(bundle), "int8", options)
    assert Bundle.open(bundle).manifest.verified(f"engines/{built.name}.engine") is None


def test_openvino_has_verdicts_of_its_own(bundle: Path, colour_run: Path) -> None:
    pytest.importorskip("openvino")
    if reason := why_no_bf16():
        pytest.skip(reason)
    assert open_runtime(bundle, precision="int8", backend="openvino").info.verified is None
    arguments = ["verify", str(bundle), "--images", str(colour_run.parent / "data" / "images"), "--json"]
    document = json.loads(CliRunner().invoke(cli, [*arguments, "--backend", "openvino"]).stdout)
    stages = {stage["stage"]: stage for stage in document["stages"]}
    for precision in PRECISIONS:
        stage = stages[f"openvino {precision}"]
        assert "OpenVINO" in stage["backend"]
        assert stage["against"] == f"onnx {precision}"
        verified = open_runtime(bundle, precision=precision, backend="openvino").info.verified
        assert verified is (stage["status"] == "passed")
    assert stages["openvino fp32"]["status"] == stages["openvino bf16"]["status"] == "passed"


@pytest.mark.parametrize("sound", [True, False])
def test_an_engine_is_compared_with_its_graph(bundle: Path, colour_run: Path, monkeypatch, sound: bool) -> None:
    """With a stand-in for a GPU: an engine that takes batches of two or more and 64 to 96 pixels per side."""
    real = stages.open_runtime
    computed = real(bundle, device="cpu", precision="fp16")
    shapes = []

    class Engine:
        info = replace(computed.info, size_range=((64, 64), (96, 96)), batch_range=(2, 4))

        def predict(self, images):
            shapes.append(images.shape)
            return computed.predict(images if sound else images[..., ::-1])

    folder = bundle / "engines"
    folder.mkdir()
    for name in ("fp16-sm99.engine", "fp16-sm99.json"):
        (folder / name).write_text(name)
    entry = EngineEntry(
        file="engines/fp16-sm99.engine",
        sidecar="engines/fp16-sm99.json",
        precision="fp16",
        graph="model.fp16.onnx",
        engine="tensorrt",
    )
    Bundle.open(bundle).add_engine("fp16-sm99", entry)
    monkeypatch.setattr(
        stages, "open_runtime", lambda path, **options: Engine() if path.suffix == ".engine" else real(path, **options)
    )
    verification = verify_bundle(Bundle.open(bundle), run_samples(colour_run))
    stage = verification.stage("engine fp16-sm99")
    assert stage.against == "onnx fp16"
    assert {shape[0] for shape in shapes} == {2}
    assert {shape[1:3] for shape in shapes} == {(96, 96), (64, 96), (96, 75)}
    assert stage.status == ("passed" if sound else "failed")
    assert Bundle.open(bundle).manifest.verified(entry.file) is sound
    if not sound:
        assert verification.first_failure() == stage
        assert "`protoseg build" in stage.next_step

    # where it cannot run any more, what was found on the same images stays
    def refuse(path, **options):
        if path.suffix == ".engine":
            raise UsageError("another GPU")
        return real(path, **options)

    monkeypatch.setattr(stages, "open_runtime", refuse)
    assert verify_bundle(Bundle.open(bundle), run_samples(colour_run)).stage("engine fp16-sm99").status == stage.status


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), -1.0, True, "1"])
def test_a_loss_that_no_loss_is_larger_than_is_refused(loss) -> None:
    with pytest.raises(UsageError, match="points of mIoU"):
        stages.int8_limits(loss)


@pytest.mark.parametrize("verb", ["verify", "export"])
def test_masks_that_show_no_class_are_refused(good_bundle: Path, colour_run: Path, tmp_path: Path, verb: str) -> None:
    """An export to int8 measures what it costs; nothing costs more than an mIoU that is no number."""
    images = tmp_path / "images"
    masks = tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for number, sample in enumerate(run_samples(colour_run)):
        shutil.copy(sample.image, images / f"{number}.png")
        with Image.open(sample.image) as image:
            Image.new("L", image.size, 255).save(masks / f"{number}.png")
    judged = ["--images", images, "--masks", masks]
    if verb == "verify":
        arguments = ["verify", shutil.copytree(good_bundle, tmp_path / "bundle"), *judged]
    else:
        arguments = ["export", colour_run, "--bundle", tmp_path / "bundle", "--precision", "int8", *judged]
        arguments += ["--calibration-images", images]
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert "no pixel of the masks has a class" in result.stderr
    assert (tmp_path / "bundle").exists() == (verb == "verify")
    if verb == "verify":
        assert Bundle.open(tmp_path / "bundle").manifest == Bundle.open(good_bundle).manifest
