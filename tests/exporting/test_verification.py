"""A correct bundle passes; one whose graph sees the image differently does not, whatever its checksums say."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from PIL import Image

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.manifest import GRAPH_FILE, MANIFEST_FILE
from protoseg_deploy.bundles.verdicts import Limits
from protoseg_deploy.cli import cli
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.samples import run_samples
from protoseg_deploy.exporting import export_bundle, verify_bundle, worst_picture
from tests.exporting.planting import Fault, align_the_corners, edit_graph, forget_the_mean, swap_red_and_blue

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def bundle(good_bundle: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(good_bundle, tmp_path / "bundle")


def nudge_the_head(model: onnx.ModelProto) -> None:
    """Rounding, much enlarged, but below what any image shows: it must pass."""
    bias = next(entry for entry in model.graph.initializer if entry.name == "segmenter.head.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([1e-4, 0, 0, -1e-4]), bias.name))


def test_a_correct_bundle_passes(bundle: Path, colour_run: Path) -> None:
    verification = verify_bundle(Bundle.open(bundle), run_samples(colour_run))
    assert verification.passed
    assert (verification.images, verification.masks, verification.fitted_images) == (3, 3, 0)
    (stage,) = verification.stages
    assert (stage.stage, stage.artefact, stage.against, stage.status) == ("onnx fp32", GRAPH_FILE, "pytorch", "passed")
    assert stage.agreement_percent > 99.99
    assert stage.miou_percent == pytest.approx(verification.miou_pytorch_percent, abs=0.01)
    assert stage.miou_percent > 60  # the network has learnt the colours: the faults below have a meaning
    manifest = Bundle.open(bundle).manifest
    assert manifest.verification == verification
    assert manifest.verified(GRAPH_FILE) is True
    assert manifest.verified("model.int8.onnx") is None


@pytest.mark.parametrize("fault", [swap_red_and_blue, forget_the_mean, align_the_corners])
def test_planted_faults_fail(bundle: Path, colour_run: Path, fault: Fault) -> None:
    edit_graph(bundle, GRAPH_FILE, fault)
    images = colour_run.parent / "data"
    arguments = ["verify", str(bundle), "--images", str(images / "images"), "--masks", str(images / "masks"), "--json"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 1
    assert "`onnx fp32` does not match `pytorch`" in result.stderr
    document = json.loads(result.stdout)
    assert document["passed"] is False
    (stage,) = document["stages"]
    assert stage["agreement_percent"] < 99.9
    assert stage["max_relative_margin"] > 0.1
    assert len(stage["reasons"]) == 3
    assert stage["miou_percent"] == pytest.approx(document["miou_pytorch_percent"] - stage["miou_drop_points"])
    picture = worst_picture(Bundle.open(bundle), "onnx fp32")
    assert picture is not None
    assert str(picture) in result.stderr
    height, width = np.asarray(Image.open(images / "images" / stage["worst_image"])).shape[:2]
    assert Image.open(picture).size == (4 * width + 12, height)
    assert Bundle.open(bundle).manifest.verified(GRAPH_FILE) is False

    result = CliRunner().invoke(cli, [*arguments[:4], "--bisect", "fp32", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["culprit"] is not None


def test_a_repaired_bundle_loses_its_picture(bundle: Path, good_bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    edit_graph(bundle, GRAPH_FILE, swap_red_and_blue)
    assert not verify_bundle(Bundle.open(bundle), samples).passed
    for name in (GRAPH_FILE, MANIFEST_FILE):
        (bundle / name).write_bytes((good_bundle / name).read_bytes())
    verification = verify_bundle(Bundle.open(bundle), samples)
    assert verification.passed
    assert (worst_picture(Bundle.open(bundle), "onnx fp32") is None) == (verification.stages[0].disagreeing_pixels == 0)


def test_rounding_passes_unless_limits_are_tighter(bundle: Path, colour_run: Path) -> None:
    edit_graph(bundle, GRAPH_FILE, nudge_the_head)
    samples = run_samples(colour_run)
    assert verify_bundle(Bundle.open(bundle), samples).passed
    # not even bit-equal maps agree to more than 100 %
    tight = Limits(min_agreement_percent=100.5, max_relative_margin=None, max_miou_drop_points=1)
    verification = verify_bundle(Bundle.open(bundle), samples, limits={"fp32": tight})
    assert not verification.passed
    assert "pixels agree" in verification.stages[0].reasons[0]


def test_digest_tells_images_apart(bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    digests = {
        verify_bundle(Bundle.open(bundle), chosen).images_sha256 for chosen in (samples, samples[:2], samples[::-1])
    }
    assert len(digests) == 3
    assert verify_bundle(Bundle.open(bundle), samples).images_sha256 in digests


def test_tampered_files_are_refused_by_name(bundle: Path, colour_run: Path) -> None:
    samples = run_samples(colour_run)
    for name in (GRAPH_FILE, "reference.safetensors"):
        original = (bundle / name).read_bytes()
        (bundle / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(ProtosegError, match=rf"{name} is not the file the manifest describes"):
            verify_bundle(Bundle.open(bundle), samples)
        (bundle / name).write_bytes(original)
    assert verify_bundle(Bundle.open(bundle), samples).passed


def test_images_that_cannot_be_used(bundle: Path, colour_run: Path, tmp_path: Path) -> None:
    image = run_samples(colour_run)[0].image
    with pytest.raises(DataError, match="at least one image"):
        verify_bundle(Bundle.open(bundle), [])
    for values, size, message in [
        (7, (131, 97), "ids out of range: 7 in"),
        (0, (10, 10), "10×10 pixels .height×width., but its image .* has 97×131"),
    ]:
        mask = tmp_path / "mask.png"
        Image.new("L", size, values).save(mask)
        with pytest.raises(DataError, match=message):
            verify_bundle(Bundle.open(bundle), [Sample(image, mask)])


def test_fixed_size_sees_cropped_and_padded_images(colour_run: Path, tmp_path: Path) -> None:
    samples = run_samples(colour_run)
    made = export_bundle(colour_run, tmp_path / "fixed", size=(97, 100), samples=samples)
    assert made.manifest.verification.passed
    assert made.manifest.verification.fitted_images == 3
    assert made.manifest.input.shape == ("batch", 97, 100, 3)
