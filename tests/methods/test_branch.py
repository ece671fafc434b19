"""Class-balanced losses of the prototype branch against loops over pixels."""

import math

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.methods import branch
from protoseg_deploy.methods.branch import PrototypeBranch, class_balancing_weights
from protoseg_deploy.models import SegmenterOutput
from protoseg_deploy.recipe import Prototypes


def weights_by_loops(labels, counted):
    """Every class that is there gets the same total."""
    pixels = [label for label, counts in zip(labels, counted, strict=True) if counts]
    each = len(pixels) / max(1, len(set(pixels)))
    return [each / pixels.count(label) if counts else 0.0 for label, counts in zip(labels, counted, strict=True)]


@pytest.fixture
def pixels():
    generator = torch.Generator().manual_seed(0)
    labels = torch.multinomial(torch.tensor([0.9, 0.07, 0.03, 0.0]), 200, replacement=True, generator=generator)
    return labels, torch.rand(200, generator=generator) < 0.8


def test_weights_are_those_of_a_loop(pixels):
    labels, counted = pixels
    weights = class_balancing_weights(labels, counted, 4)
    assert weights.tolist() == pytest.approx(weights_by_loops(labels.tolist(), counted.tolist()), rel=1e-5)
    assert weights[counted].mean().item() == pytest.approx(1.0)
    totals = [weights[labels == index].sum().item() for index in range(3)]
    assert totals == pytest.approx([totals[0]] * 3), "each class that is there counts alike"


def test_without_a_pixel_there_are_no_weights():
    weights = class_balancing_weights(torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.bool), 3)
    assert weights.tolist() == [0.0] * 5


def test_pixels_of_all_processes_are_counted(pixels, monkeypatch):
    """Each of two processes finds the weights that one would find on the pixels of both."""
    labels, counted = pixels
    whole = class_balancing_weights(labels, counted, 4)
    halves = [slice(0, 60), slice(60, 200)]
    counts = [torch.bincount(labels[half][counted[half]], minlength=4).float() for half in halves]
    for half, other in zip(halves, counts[::-1], strict=True):
        monkeypatch.setattr(branch, "sum_over_processes", lambda value, other=other: value + other)
        torch.testing.assert_close(class_balancing_weights(labels[half], counted[half], 4), whole[half])


@pytest.mark.parametrize("class_balanced", [False, True])
def test_a_loss_is_that_of_a_loop(pixels, class_balanced):
    """Averaged over more pixels than count, as that of unlabelled pixels is."""
    labels, counted = pixels
    averaged_over = counted.clone()
    averaged_over[:50] = True
    spec = Prototypes(class_balanced=class_balanced, per_class=2)
    head = PrototypeBranch(spec, 4, channels=6, ignore_index=255)
    generator = torch.Generator().manual_seed(1)
    head.bank.place(torch.randn(4, 2, 6, generator=generator))
    features = torch.randn(200, 6, generator=generator)
    similarities = torch.einsum("nd,ckd->nck", F.normalize(features, dim=1), head.bank.prototypes)
    targets = torch.where(counted, labels, 0)
    total = 0.0
    for weight, label, cosines in zip(
        weights_by_loops(labels.tolist(), counted.tolist()), labels.tolist(), similarities.tolist(), strict=True
    ):
        logits = [max(of_class) / 0.1 for of_class in cosines]
        loss = math.log(sum(math.exp(logit) for logit in logits)) - logits[label]
        total += loss * (weight if class_balanced else float(weight > 0))
    losses = head.bank.cross_entropies(features, targets).losses
    loss = head.mean_loss(losses, branch.PixelSample("some", features, targets, counted, averaged_over))
    assert loss.item() == pytest.approx(total / averaged_over.sum().item(), rel=1e-4)


def test_classes_of_the_same_size_are_balanced_as_they_are():
    labels = torch.arange(3).repeat(7)
    assert class_balancing_weights(labels, torch.ones(21, dtype=torch.bool), 3).tolist() == [1.0] * 21


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_pseudo_labels_are_a_mean_of_both_heads(share):
    torch.manual_seed(0)
    head = PrototypeBranch(Prototypes(pseudo_label_share=share, per_class=2), 4, channels=6, ignore_index=255)
    head.bank.place(torch.randn(4, 2, 6))
    logits, features = torch.randn(2, 4, 3, 5), torch.randn(2, 6, 3, 5)
    blended = head.blended_logits(SegmenterOutput(logits, features, features, [], (12, 20), (12, 20))).softmax(dim=1)
    cosines = torch.einsum("bdhw,ckd->bckhw", F.normalize(features, dim=1), head.bank.prototypes)
    expected = (1 - share) * logits.softmax(dim=1) + share * (cosines.amax(dim=2) / 0.1).softmax(dim=1)
    torch.testing.assert_close(blended, expected)
