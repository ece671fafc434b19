"""Loss terms against plain references."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from protoseg_deploy.methods.cutmix import CutMix
from protoseg_deploy.methods.terms import (
    SoftLabels,
    confident_labels,
    consistency,
    labeled_cross_entropy,
    low_entropy_labels,
)
from protoseg_deploy.recipe import Ohem
from tests.methods.test_full_size import at_full_size


@pytest.fixture
def logits():
    return torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0)) * 2


@pytest.fixture
def labels():
    labels = torch.randint(0, 4, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0] = 255
    return labels


def pixel_losses(logits, labels):
    """Cross-entropy of every known pixel, one by one."""
    losses = []
    for scores, label in zip(logits.permute(0, 2, 3, 1).reshape(-1, 4).double().numpy(), labels.flatten(), strict=True):
        if label != 255:
            losses.append(np.log(np.exp(scores).sum()) - scores[label])
    return np.array(losses)


def test_labeled_loss_averages_over_known_pixels(logits, labels):
    assert labeled_cross_entropy(at_full_size(logits), labels, 255).item() == pytest.approx(
        pixel_losses(logits, labels).mean()
    )


def test_labeled_loss_without_any_label_is_zero(logits):
    assert labeled_cross_entropy(at_full_size(logits), torch.full((2, 6, 5), 255), 255).item() == 0.0


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1), (0.05, 20), (0.3, 10)])
def test_hard_examples_are_those_below_the_threshold_but_at_least_some(logits, labels, threshold, min_kept):
    losses = np.sort(pixel_losses(logits, labels))[::-1]
    kept = max(int((np.exp(-losses) <= threshold).sum()), min_kept)
    loss = labeled_cross_entropy(at_full_size(logits), labels, 255, Ohem(threshold=threshold, min_kept=min_kept))
    assert loss.item() == pytest.approx(losses[:kept].mean(), rel=1e-5)


def test_consistency_counts_trusted_pixels_and_averages_over_valid_ones(logits):
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[1, :, 3:] = False
    pseudo = confident_labels(at_full_size(logits), valid, threshold=0.6)
    student = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(2))
    total = 0.0
    for b, y, x in np.ndindex(2, 6, 5):
        probabilities = np.exp(logits[b, :, y, x].double().numpy())
        probabilities /= probabilities.sum()
        if valid[b, y, x] and probabilities.max() >= 0.6:
            scores = student[b, :, y, x].double().numpy()
            total += np.log(np.exp(scores).sum()) - scores[probabilities.argmax()]
    assert consistency(at_full_size(student), pseudo).item() == pytest.approx(total / valid.sum().item(), rel=1e-5)


@pytest.mark.parametrize("mixed", [False, True])
def test_soft_labels_are_the_probabilities_of_the_image_a_pixel_comes_from(logits, mixed):
    """Pixel by pixel: KL(teacher ‖ student), inside a box of the teacher on the partner."""
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[1, :, 3:] = False
    teacher = at_full_size(logits)
    pseudo = replace(confident_labels(teacher, valid, threshold=0.5), soft=SoftLabels(teacher))
    boxes = torch.zeros(2, 6, 5, dtype=torch.bool)
    if mixed:
        boxes[0, 1:4, 1:3] = True
        pseudo = pseudo.mixed(CutMix(boxes))
    student = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(2))
    total, counted = 0.0, 0
    for b, y, x in np.ndindex(2, 6, 5):
        source = 1 - b if boxes[b, y, x] else b
        wanted = np.exp(logits[source, :, y, x].double().numpy())
        wanted /= wanted.sum()
        counted += bool(valid[source, y, x])
        if valid[source, y, x] and wanted.max() >= 0.5:
            scores = student[b, :, y, x].double().numpy()
            total += (wanted * (np.log(wanted) - scores + np.log(np.exp(scores).sum()))).sum()
    assert consistency(at_full_size(student), pseudo).item() == pytest.approx(total / counted, rel=1e-5)


def test_each_class_may_have_its_threshold(logits):
    valid = torch.ones(2, 6, 5, dtype=torch.bool)
    valid[0, 0] = False
    bounds = torch.tensor([0.9, 0.3, 0.6, 1.1])
    pseudo = confident_labels(at_full_size(logits), valid, bounds)
    for pixel in np.ndindex(2, 6, 5):
        assert pseudo.trusted[pixel] == (valid[pixel] and pseudo.confidence[pixel] >= bounds[pseudo.labels[pixel]])
    one, alike = (confident_labels(at_full_size(logits), valid, bound) for bound in (0.6, torch.full((4,), 0.6)))
    assert torch.equal(one.trusted, alike.trusted)


def test_entropy_filter_drops_the_most_uncertain_share():
    logits = torch.randn(4, 5, 50, 50, generator=torch.Generator().manual_seed(3))
    valid = torch.ones(4, 50, 50, dtype=torch.bool)
    valid[0] = False
    pseudo = low_entropy_labels(at_full_size(logits), valid, drop_share=0.2)
    assert not pseudo.trusted[0].any()
    assert (pseudo.trusted.sum() / valid.sum()).item() == pytest.approx(0.8, abs=0.01)
    probabilities = logits.softmax(1)
    entropy = -(probabilities * probabilities.log()).sum(1)
    assert entropy[pseudo.trusted].max() <= entropy[valid & ~pseudo.trusted].min()


def test_entropy_filter_drops_nothing_at_the_end_of_training():
    logits = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4))
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    assert low_entropy_labels(at_full_size(logits), valid, drop_share=0.0).trusted.all()
