"""Accuracy of several runtimes in one go."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.benchmarking.accuracy import measure_accuracy, miou_interval
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.evaluate import evaluate
from protoseg_deploy.evaluation.samples import folder_samples
from tests.fake_runtime import FakeRuntime


@pytest.fixture
def samples(tmp_path: Path):
    """Images whose red channel is the class, of several sizes; masks are right but for a tenth, and partly ignored."""
    random = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(12):
        image = random.integers(0, 4, (8 + number, 10, 3), dtype=np.uint8)
        mask = np.where(random.random(image.shape[:2]) < 0.1, (image[..., 0] + 1) % 4, image[..., 0])
        mask[0] = 255
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "masks" / f"{number}.png")
    return folder_samples(tmp_path / "images", tmp_path / "masks")


def test_figures_are_those_of_evaluate(samples) -> None:
    first, second = FakeRuntime(), FakeRuntime(lambda images: np.where(images[..., 1] < 2, images[..., 0], 0))
    found = measure_accuracy([first, second], samples)
    for runtime, accuracy in zip((first, second), found, strict=True):
        assert accuracy.miou_percent == pytest.approx(evaluate(runtime, samples).miou_percent)
        assert accuracy.miou_low_percent < accuracy.miou_percent < accuracy.miou_high_percent
        assert accuracy.images == 12
    images = [np.asarray(Image.open(sample.image)) for sample in samples]
    equal = sum(np.sum((image[..., 1] < 2) | (image[..., 0] == 0)) for image in images)
    assert found[0].agreement_percent == 100
    assert found[1].agreement_percent == pytest.approx(100 * equal / sum(image[..., 0].size for image in images))


def test_other_classes_are_refused(samples) -> None:
    with pytest.raises(UsageError, match="do not have the same classes"):
        measure_accuracy([FakeRuntime(classes=4), FakeRuntime(classes=5)], samples)


def test_images_that_are_alike_make_a_narrow_interval() -> None:
    alike = np.tile(np.array([[[80, 90], [100, 100], [100, 100]]]), (30, 1, 1))
    low, high = miou_interval(alike)
    assert low == pytest.approx(high)
    apart = alike.copy()
    apart[::3, 0] = 10
    low, high = miou_interval(apart)
    assert high - low > 10
