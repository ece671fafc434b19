"""A correct bundle passes; one whose graph sees the image differently does not, whatever its checksums say."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

from protoseg_deploy.cli import cli
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.samples import run_samples
from protoseg_deploy.exporting import export_bundle, verify_bundle, worst_picture
from protoseg_deploy.runtimes import read_manifest
from protoseg_deploy.runtimes.manifest import GRAPH_FILE, MANIFEST_FILE, Limits, file_entry


@pytest.fixture
def bundle(good_bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    copy = tmp_path / "bundle"
    copy.mkdir()
    for file in good_bundle.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def edit_graph(bundle: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    """Change the graph and sign it again, as somebody would who rebuilt it wrongly."""
    model = onnx.load(bundle / GRAPH_FILE)
    edit(model)
    onnx.checker.check_model(model)
    onnx.save(model, bundle / GRAPH_FILE)
    manifest = read_manifest(bundle)
    files = {**manifest.files, GRAPH_FILE: file_entry(bundle / GRAPH_FILE)}
    (bundle / MANIFEST_FILE).write_text(manifest.model_copy(update={"files": files}).to_json())


def swap_red_and_blue(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    for node in model.graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["images", "bgr"], ["swapped"], axis=3))


def forget_the_mean(model: onnx.ModelProto) -> None:
    names = [entry for entry in model.graph.initializer if entry.name == "segmenter.mean"]
    assert len(names) == 1
    names[0].CopyFrom(numpy_helper.from_array(np.zeros((1, 3, 1, 1), np.float32), names[0].name))


def nudge_the_head(model: onnx.ModelProto) -> None:
    """Rounding, much enlarged, but below what any image shows: it must pass."""
    bias = next(entry for entry in model.graph.initializer if entry.name == "segmenter.head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([1e-4, 0, 0, -1e-4]), bias.name))


def test_a_correct_bundle_passes(bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    verdict = verify_bundle(bundle, samples)
    assert verdict.passed
    assert (verdict.images, verdict.masks, verdict.fitted_images) == (3, 3, 0)
    assert verdict.agreement_percent > 99.99
    assert verdict.miou_pytorch_percent == pytest.approx(verdict.miou_onnx_percent, abs=0.01)
    assert verdict.miou_pytorch_percent > 60  # the network has learnt the colours: the faults below have a meaning
    assert read_manifest(bundle).verification == verdict
    assert worst_picture(bundle) is None


@pytest.mark.parametrize("fault", [swap_red_and_blue, forget_the_mean])
def test_planted_faults_fail(bundle: Path, colour_run: Path, fault: Callable[[onnx.ModelProto], None]) -> None:
    edit_graph(bundle, fault)
    images = colour_run.parent / "data"
    arguments = ["verify", str(bundle), "--images", str(images / "images"), "--masks", str(images / "masks"), "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert document["passed"] is False
    assert document["agreement_percent"] < 99.9
    assert document["max_relative_margin"] > 0.1
    assert len(document["reasons"]) == 3
    assert document["miou_onnx_percent"] < document["miou_pytorch_percent"] - 0.1
    picture = worst_picture(bundle)
    assert picture is not None
    assert str(picture) in result.stderr
    assert picture.stem == f"worst-{Path(document['worst_image']).stem}"
    height, width = np.asarray(Image.open(images / "images" / document["worst_image"])).shape[:2]
    assert Image.open(picture).size == (4 * width + 12, height)
    assert read_manifest(bundle).verification.passed is False


def test_a_repaired_bundle_loses_its_picture(bundle: Path, good_bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    edit_graph(bundle, swap_red_and_blue)
    assert not verify_bundle(bundle, samples).passed
    for name in (GRAPH_FILE, MANIFEST_FILE):
        (bundle / name).write_bytes((good_bundle / name).read_bytes())
    assert verify_bundle(bundle, samples).passed
    assert worst_picture(bundle) is None


def test_rounding_passes_unless_limits_are_tighter(bundle: Path, colour_run: Path) -> None:
    edit_graph(bundle, nudge_the_head)
    samples = run_samples(colour_run)
    assert verify_bundle(bundle, samples).passed
    # not even bit-equal maps agree to more than 100 %
    verdict = verify_bundle(bundle, samples, limits=Limits(min_agreement_percent=100.5))
    assert not verdict.passed
    assert "pixels agree" in verdict.reasons[0]


def test_digest_tells_images_apart(bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    digests = {verify_bundle(bundle, chosen).images_sha256 for chosen in (samples, samples[:2], samples[::-1])}
    assert len(digests) == 3
    assert verify_bundle(bundle, samples).images_sha256 in digests


def test_tampered_files_are_refused_by_name(bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    for name in (GRAPH_FILE, "reference.safetensors"):
        original = (bundle / name).read_bytes()
        (bundle / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(ProtosegError, match=rf"{name} is not the file the manifest describes"):
            verify_bundle(bundle, samples)
        (bundle / name).write_bytes(original)
    assert verify_bundle(bundle, samples).passed


def test_images_that_cannot_be_used(bundle: Path, colour_run: Path, tmp_path: Path) -> None:
    image = run_samples(colour_run)[0].image
    with pytest.raises(DataError, match="at least one image"):
        verify_bundle(bundle, [])
    for values, size, message in [(7, (131, 97), "holds 7"), (0, (10, 10), "mask is 10x10 pixels, its image 131x97")]:
        mask = tmp_path / "mask.png"
        Image.new("L", size, values).save(mask)
        with pytest.raises(DataError, match=message):
            verify_bundle(bundle, [Sample(image, mask)])


def test_fixed_size_sees_cropped_and_padded_images(colour_run: Path, tmp_path: Path) -> None:
    samples = run_samples(colour_run)
    made = export_bundle(colour_run, tmp_path / "fixed", size=(97, 100), samples=samples)
    assert made.manifest.verification.passed
    assert made.manifest.verification.fitted_images == 3
    assert made.manifest.input.shape == ("batch", 97, 100, 3)
