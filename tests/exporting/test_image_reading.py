"""How image files are read travels with the network: into its file, its graph, its bundle, and every runtime."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.manifest import Manifest
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.data import read_image
from protoseg_deploy.data.folders import Sample
from protoseg_deploy.evaluation.evaluate import evaluate
from protoseg_deploy.evaluation.prediction import predict_files
from protoseg_deploy.exporting import Calibration, export_bundle
from protoseg_deploy.models import load_network, save_network
from protoseg_deploy.models.saved import read_network_spec
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.runtimes.opening import open_runtime
from tests.data.image_files import deep_png
from tests.exporting.conftest import COLORS, scene

pytestmark = pytest.mark.usefixtures("traced_once")

READING = ImageReading(bands=(3, 2, 1), alpha="ignore", value_range=(0, 4080), exif="ignore")


@pytest.fixture(scope="module")
def exported(colour_run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, tuple[Sample, ...]]:
    """A run whose images are BGR of 12 bits, its bundle with int8, and samples whose masks show colours."""
    folder = tmp_path_factory.mktemp("reading")
    network, spec = load_network(colour_run / "best.safetensors")
    (folder / "run").mkdir()
    save_network(folder / "run" / "best.safetensors", network.state_dict(), replace(spec, reading=READING))
    samples = []
    for number in range(3):
        image, mask = scene(200 + number, 64, 72)
        sample = Sample(folder / f"{number}.png", folder / f"{number}-mask.png")
        deep_png(sample.image, image[..., ::-1].astype(np.uint16) * 16)
        Image.fromarray(np.array(COLORS, np.uint8)[mask]).save(sample.mask)
        np.testing.assert_array_equal(read_image(sample.image, READING), image)
        samples.append(sample)
    calibration = Calibration([sample.image for sample in samples])
    export_bundle(
        folder / "run", folder / "bundle", precisions=("int8",), calibration=calibration, samples=tuple(samples)
    )
    return folder / "run", folder / "bundle", tuple(samples)


def test_everything_made_of_a_network_reads_images_as_it_does(exported: tuple[Path, Path, tuple[Sample, ...]]) -> None:
    run, bundle, _ = exported
    assert read_network_spec(run / "best.safetensors").reading == READING
    manifest = Bundle.open(bundle).manifest
    assert manifest.input.reading == READING
    assert manifest.verification.passed
    assert manifest.verification.masks == 3, "colours of the classes were read"
    for file in ("model.onnx", "model.int8.onnx"):
        properties = {entry.key: entry.value for entry in onnx.load(bundle / file).metadata_props}
        assert GraphMetadata.from_properties(properties, file).reading == READING
    for path in (run, bundle, bundle / "model.onnx", bundle / "model.int8.onnx"):
        assert open_runtime(path, device="cpu").info.reading == READING


def test_files_are_judged_and_predicted_as_the_network_was_trained(
    exported: tuple[Path, Path, tuple[Sample, ...]], tmp_path: Path
) -> None:
    run, bundle, samples = exported
    results = [evaluate(open_runtime(path, device="cpu"), samples) for path in (run, bundle)]
    assert results[0].miou_percent > 60, "plain decoding gives dark images with red and blue swapped"
    assert results[1].miou_percent == pytest.approx(results[0].miou_percent, abs=1)
    runtime = open_runtime(bundle, device="cpu")
    done = predict_files(runtime, [sample.image for sample in samples], tmp_path)
    for sample, image in zip(samples, done.images, strict=True):
        expected = runtime.predict(read_image(sample.image, READING)[None])[0]
        np.testing.assert_array_equal(np.asarray(Image.open(image.index)), expected)


def test_files_that_were_written_before_are_read(
    exported: tuple[Path, Path, tuple[Sample, ...]], tmp_path: Path
) -> None:
    run, bundle, _ = exported
    with safe_open(run / "best.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["protoseg_network"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["reading"]
    save_file(weights, tmp_path / "old.safetensors", metadata={"protoseg_network": json.dumps(header)})
    assert load_network(tmp_path / "old.safetensors")[1].reading == ImageReading()
    tree = json.loads((bundle / "manifest.json").read_text())
    del tree["input"]["reading"], tree["masks"]["ignore_colors"]
    old = Manifest.model_validate(tree)
    assert old.input.reading == ImageReading()
    assert old.mask_reading().ignore_colors == ()
    properties = {entry.key: entry.value for entry in onnx.load(bundle / "model.onnx").metadata_props}
    del properties["protoseg.reading"]
    assert GraphMetadata.from_properties(properties, "old").reading == ImageReading()
