"""Distribution alignment against the formula it is named for."""

import numpy as np
import pytest
import torch

from protoseg_deploy.methods.alignment import DistributionAlignment
from tests.methods.test_full_size import at_full_size


def test_one_step_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    valid[1, 2:] = False
    labels = torch.tensor([[[0, 0, 0, 1], [2, 255, 255, 0]]])
    aligned = DistributionAlignment(3)(at_full_size(logits), valid, labels, 255).coarse.softmax(1).numpy()
    probabilities = logits.softmax(1).numpy()
    predicted = np.array([probabilities[:, c][valid.numpy()].mean() for c in range(3)])
    labeled = np.array([4, 1, 1]) / 6
    expected = probabilities * (labeled / predicted)[None, :, None, None]
    assert np.allclose(aligned, expected / expected.sum(1, keepdims=True), atol=1e-5)


def test_a_class_that_is_predicted_too_rarely_is_raised_to_its_share():
    """A teacher with a bias against class 1 gives it clearly more, but not more than the labels have."""
    generator = torch.Generator().manual_seed(1)
    alignment = DistributionAlignment(2)
    labels = (torch.rand(2, 32, 32, generator=generator) < 0.3).long()
    bias = torch.tensor([0.0, -6.0]).view(1, 2, 1, 1)
    for _ in range(50):
        logits = torch.randn(2, 2, 32, 32, generator=generator) * 3 + bias
        aligned = alignment(at_full_size(logits), torch.ones(2, 32, 32, dtype=torch.bool), labels, 255).coarse
    before, after = (maps.softmax(1)[:, 1].mean().item() for maps in (logits, aligned))
    assert before < 0.12
    assert 1.4 * before < after < 0.32


def test_a_class_that_was_never_labelled_is_bounded():
    alignment = DistributionAlignment(2, largest_ratio=10)
    logits = torch.zeros(1, 2, 4, 4)
    valid, labels = torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.int64)
    aligned = alignment(at_full_size(logits), valid, labels, 255).coarse
    assert aligned.isfinite().all()
    assert aligned.softmax(1)[0, 1].max().item() == pytest.approx((0.1) / (0.1 + 2.0), rel=1e-4)
