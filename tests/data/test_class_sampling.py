"""Which classes crops are drawn for, against the published formula."""

import math

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data import Sample
from protoseg_deploy.data.class_sampling import ClassSampling
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data

PIXELS = np.array([[60, 0, 0, 3], [30, 6, 0, 0], [0, 0, 0, 1]])


def test_probabilities_are_the_formula():
    weights = [math.exp((1 - share) / 0.1) for share in (0.9, 0.06, 0.04)]
    expected = [weights[0], weights[1], 0.0, weights[2]]
    assert ClassSampling(PIXELS).probabilities.tolist() == pytest.approx([w / sum(weights) for w in expected])


def test_classes_are_drawn_as_often_as_promised_and_images_show_them():
    sampling = ClassSampling(PIXELS)
    random = np.random.default_rng(0)
    counts, images = np.zeros(4), np.zeros((4, 3))
    for _ in range(4000):
        drawn = sampling.draw_class(random)
        counts[drawn] += 1
        images[drawn, sampling.draw_image(drawn, random)] += 1
    assert counts / 4000 == pytest.approx(sampling.probabilities, abs=0.03)
    assert not images[PIXELS.T == 0].any()
    assert images[3, [0, 2]] / counts[3] == pytest.approx([0.5, 0.5], abs=0.05)


def test_masks_are_counted_as_training_sees_them(tmp_path):
    """Values are mapped, and the ignore index is no class."""
    samples = []
    for number, mask in enumerate([np.full((4, 5), 7), np.full((4, 5), 9), np.full((4, 5), 255)]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(mask.astype(np.uint8)).save(path)
        samples.append(Sample(path, path))
    data = Data(classes=["a", "b"], value_map={7: 0, 9: 1})
    sampling = ClassSampling.of(samples, data)
    assert sampling.probabilities[:2].tolist() == [0.5, 0.5]
    assert sampling.probabilities[2:].sum() == 0
    assert sampling.draw_image(1, np.random.default_rng(0)) == 1
    with pytest.raises(DataError, match="every pixel is ignored"):
        ClassSampling.of(samples[2:], data)
