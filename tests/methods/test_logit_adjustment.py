"""Logit adjustment against loops, and what it is for."""

import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.methods.logit_adjustment import LogitAdjustment
from tests.methods.test_class_frequencies import collect
from tests.methods.test_full_size import at_full_size


def fitted(labels, feature, adjust):
    """Weight and bias of a logistic regression on adjusted logits, as those of class 1 against class 0."""
    linear = torch.nn.Linear(1, 2)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=100)

    def closure():
        optimizer.zero_grad()
        logits = at_full_size(linear(feature).t()[None, :, None])
        loss = F.cross_entropy(adjust(logits).coarse[0, :, 0].t(), labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return (linear.weight[1] - linear.weight[0]).item(), (linear.bias[1] - linear.bias[0]).item()


def pixels(count, rare_share):
    """Overlapping classes: one feature of which class 1 has 2 more."""
    labels = (torch.rand(count) < rare_share).long()
    return labels, torch.randn(count, 1) + 2.0 * labels[:, None]


def test_full_strength_makes_the_best_prediction_that_of_classes_of_equal_frequency():
    """95 : 5, and adjusted training predicts as if it were 50 : 50."""
    torch.manual_seed(0)
    labels, feature = pixels(4000, rare_share=0.05)
    adjustment = LogitAdjustment(2, strength=1.0)
    collect(adjustment.labels, labels.view(1, 1, -1))
    weight, bias = fitted(labels, feature, adjustment.for_labels)
    assert -bias / weight == pytest.approx(1.0, abs=0.15), "the boundary lies halfway between the means"


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_labels_and_pseudo_labels_of_other_frequencies_teach_the_same(strength):
    """20 : 80 among the labels, as where crops are drawn for a class, and 97 : 3 among the pseudo-labels."""
    torch.manual_seed(0)
    adjustment = LogitAdjustment(2, strength)
    labels, feature = pixels(20_000, rare_share=0.8)
    pseudo_labels, pseudo_feature = pixels(60_000, rare_share=0.03)
    collect(adjustment.labels, labels.view(1, 1, -1))
    collect(adjustment.pseudo_labels, pseudo_labels.view(1, 1, -1))
    of_labels = fitted(labels, feature, adjustment.for_labels)
    of_pseudo_labels = fitted(pseudo_labels, pseudo_feature, adjustment.for_pseudo_labels)
    assert of_pseudo_labels == pytest.approx(of_labels, abs=0.15)
    unadjusted = fitted(pseudo_labels, pseudo_feature, lambda logits: logits)
    assert abs(unadjusted[1] - of_labels[1]) > 2.0
