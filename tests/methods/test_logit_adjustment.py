"""Logit adjustment against loops, and what it is for."""

import math

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.methods import logit_adjustment
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.logit_adjustment import LogitAdjustment
from tests.methods.test_full_size import at_full_size

TAKEN, SKIPPED = torch.tensor(True), torch.tensor(False)


def labels_of(*pixels):
    return torch.tensor(pixels).view(1, 1, -1)


def offsets(adjustment, classes=3):
    """What is added to each class's logit."""
    logits: FullSizeLogits = adjustment(at_full_size(torch.zeros(1, classes, 1, 1)))
    return logits.coarse.flatten().tolist()


def test_offsets_are_logarithms_of_running_shares():
    adjustment = LogitAdjustment(3, strength=0.5, momentum=0.6)
    steps = [labels_of(0, 0, 0, 1, 255), labels_of(0, 1, 1, 1), labels_of(2, 0, 255, 255), labels_of(1, 1, 0, 0)]
    average = [0.0, 0.0, 0.0]
    for number, labels in enumerate(steps):
        known = [label for label in labels.flatten().tolist() if label != 255]
        keep = min(number / (number + 1), 0.6)
        average = [keep * old + (1 - keep) * known.count(index) / len(known) for index, old in enumerate(average)]
        adjustment.collect(labels, 255)
        assert offsets(adjustment) == pytest.approx([0.5 * math.log(max(share, 1e-5)) for share in average], rel=1e-4)
        adjustment.commit(TAKEN)


def test_a_skipped_step_leaves_no_trace():
    adjustment, other = LogitAdjustment(3, 1.0), LogitAdjustment(3, 1.0)
    for labels, taken in ((labels_of(0, 1), TAKEN), (labels_of(2, 2), SKIPPED), (labels_of(0, 0), TAKEN)):
        adjustment.collect(labels, 255)
        adjustment.commit(taken)
        if taken:
            other.collect(labels, 255)
            other.commit(taken)
    assert all(torch.equal(a, b) for a, b in zip(adjustment.buffers(), other.buffers(), strict=True))


def test_parts_of_a_step_and_processes_count_together(monkeypatch):
    whole, parts = LogitAdjustment(3, 1.0), LogitAdjustment(3, 1.0)
    whole.collect(labels_of(0, 1, 1, 2, 2, 2), 255)
    parts.collect(labels_of(0, 1, 1), 255)
    parts.collect(labels_of(2, 2, 2), 255)
    assert offsets(parts) == offsets(whole)
    shared = LogitAdjustment(3, 1.0)
    monkeypatch.setattr(logit_adjustment, "sum_over_processes", lambda counts: counts + torch.tensor([0.0, 0.0, 3.0]))
    shared.collect(labels_of(0, 1, 1), 255)
    assert offsets(shared) == offsets(whole)


def test_full_strength_makes_the_best_prediction_that_of_classes_of_equal_frequency():
    """One feature, overlapping classes, 95 : 5. Adjusted training predicts as if they were 50 : 50."""
    torch.manual_seed(0)
    labels = (torch.rand(4000) < 0.05).long()
    feature = torch.randn(4000, 1) + 2.0 * labels[:, None]
    adjustment = LogitAdjustment(2, strength=1.0)
    linear = torch.nn.Linear(1, 2)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100)
    adjustment.collect(labels.view(1, 1, -1), 255)

    def closure():
        optimizer.zero_grad()
        logits = at_full_size(linear(feature).t()[None, :, None])
        loss = F.cross_entropy(adjustment(logits).coarse[0, :, 0].t(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    weight, bias = (linear.weight[1] - linear.weight[0]).item(), (linear.bias[1] - linear.bias[0]).item()
    assert -bias / weight == pytest.approx(1.0, abs=0.15), "the boundary lies halfway between the means"
