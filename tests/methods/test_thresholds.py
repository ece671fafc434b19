"""Adaptive thresholds against a loop over pixels, and what they promise."""

import numpy as np
import pytest
import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.methods import build_method
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.methods.thresholds import AdaptiveThresholds
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import class_table
from tests.conftest import with_values

TAKEN, SKIPPED = torch.tensor(True), torch.tensor(False)


def pseudo_labels(seed, classes=4, shape=(2, 6, 7)):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, shape, generator=generator)
    confidence = (0.3 + 0.1 * labels + 0.2 * torch.rand(shape, generator=generator)).clamp(max=1.0)
    valid = torch.rand(shape, generator=generator) < 0.8
    return PseudoLabels(labels, confidence, valid, valid)


def thresholds_by_loops(steps, threshold, classes, momentum=0.99):
    sums, counts = np.zeros(classes), np.zeros(classes)
    for pseudo in steps:
        sums, counts = momentum * sums, momentum * counts
        for label, confidence, valid in zip(
            pseudo.labels.flatten().tolist(),
            pseudo.confidence.flatten().tolist(),
            pseudo.valid.flatten().tolist(),
            strict=True,
        ):
            if valid:
                sums[label] += confidence
                counts[label] += 1
    means = [total / count if count else None for total, count in zip(sums, counts, strict=True)]
    largest = max(mean for mean in means if mean is not None)
    return [threshold if mean is None else threshold * mean / largest for mean in means]


def test_thresholds_are_those_of_a_loop_over_pixels():
    """Five classes of which the last is never predicted, and a step that was skipped."""
    thresholds = AdaptiveThresholds(5)
    steps = [pseudo_labels(seed) for seed in range(6)]
    for number, pseudo in enumerate(steps):
        before = thresholds.of_classes(0.9)
        thresholds.collect(pseudo)
        assert torch.equal(thresholds.of_classes(0.9), before), "what a step shows counts from the next one on"
        thresholds.commit(SKIPPED if number == 3 else TAKEN)
    # a skipped step is no step: nothing is discounted for it either
    expected = thresholds_by_loops([*steps[:3], *steps[4:]], 0.9, 5)
    assert thresholds.of_classes(0.9).tolist() == pytest.approx(expected, rel=1e-5)
    assert expected[0] < 0.7
    assert expected[3:] == pytest.approx([0.9, 0.9])


def test_every_class_starts_with_the_threshold_of_the_recipe():
    assert AdaptiveThresholds(3).of_classes(0.8).tolist() == pytest.approx([0.8] * 3)


def test_parts_of_a_step_add_up_to_the_whole():
    whole, parts = AdaptiveThresholds(4), AdaptiveThresholds(4)
    pseudo = pseudo_labels(0)
    whole.collect(pseudo)
    for part in (slice(0, 1), slice(1, 2)):
        parts.collect(PseudoLabels(*(values[part] for values in vars(pseudo).values() if values is not None)))
    for thresholds in (whole, parts):
        thresholds.commit(TAKEN)
    assert parts.of_classes(0.9).tolist() == pytest.approx(whole.of_classes(0.9).tolist(), rel=1e-6)


def test_how_frequent_a_class_is_does_not_matter():
    """A class of one pixel in a thousand gets the threshold it would get if it were everywhere."""
    labels = torch.zeros(1, 40, 50, dtype=torch.int64)
    labels[0, 0, :2] = 1
    found = []
    for rare in (labels, 1 - labels):
        confidence = torch.where(rare == 1, 0.6, 0.9)
        valid = torch.ones_like(rare, dtype=torch.bool)
        thresholds = AdaptiveThresholds(2)
        thresholds.collect(PseudoLabels(rare, confidence, valid, valid))
        thresholds.commit(TAKEN)
        found.append(thresholds.of_classes(0.9).tolist())
    assert found[0] == pytest.approx([0.9, 0.6])
    assert found[0] == pytest.approx(found[1])


def test_a_confidence_that_is_no_number_is_left_out():
    pseudo = pseudo_labels(1)
    pseudo.confidence[0, 0, 0] = torch.nan
    thresholds = AdaptiveThresholds(4)
    thresholds.collect(pseudo)
    thresholds.commit(TAKEN)
    assert thresholds.totals.isfinite().all()


def test_a_class_that_is_no_longer_predicted_is_forgotten():
    thresholds = AdaptiveThresholds(2, momentum=0.5)
    both, first = (torch.tensor(labels).view(1, 1, 4) for labels in ([0, 0, 1, 1], [0, 0, 0, 0]))
    valid = torch.ones(1, 1, 4, dtype=torch.bool)
    for number, labels in enumerate([both, *[first] * 400]):
        thresholds.collect(PseudoLabels(labels, torch.where(labels == 1, 0.5, 1.0), valid, valid))
        thresholds.commit(TAKEN)
        if number in (0, 5):
            assert thresholds.of_classes(1.0).tolist() == pytest.approx([1.0, 0.5])
    assert thresholds.of_classes(1.0).tolist() == [1.0, 1.0]


def test_a_method_filters_by_them_and_keeps_them_in_checkpoints(tiny_recipe):
    """Teacher and images are the same in both steps: only the thresholds differ."""
    recipe = with_values(
        tiny_recipe, method={"name": "fixmatch", "confidence_threshold": 0.7, "adaptive_thresholds": True}
    )
    torch.manual_seed(0)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=False)
    batch = TrainingBatches(recipe, sets.labeled, sets.unlabeled).batch(0).to(torch.device("cpu"))
    student = Segmenter(recipe.model, 3).train()
    method = build_method(recipe, student, class_table(recipe.data))
    teacher = Segmenter(recipe.model, 3)
    teacher.head.weight.data *= 20  # so that it predicts all classes
    assert "thresholds.totals" in method.state_dict()
    assert not any("thresholds" in name for name in build_method(tiny_recipe, student, method.classes).state_dict())
    first = method._pseudo_labels(teacher, batch, 0)
    assert torch.equal(first.trusted, first.valid & (first.confidence >= 0.7))
    method.commit(TAKEN)
    second = method._pseudo_labels(teacher, batch, 1)
    bounds = torch.tensor(thresholds_by_loops([first], 0.7, 3))[second.labels]
    assert torch.equal(second.trusted, second.valid & (second.confidence >= bounds))
    assert second.trusted.sum() > first.trusted.sum()


def test_the_entropy_filter_has_no_thresholds(tiny_recipe):
    with pytest.raises(ProtosegError, match="adaptive_thresholds"):
        with_values(tiny_recipe, method={"adaptive_thresholds": True, "pseudo_label_filter": "entropy"})


def test_means_over_very_many_pixels_are_exact():
    """In single precision the sum of two million confidences of 0.96 is off by one per cent."""
    labels = torch.zeros(1, 1000, 2000, dtype=torch.int64)
    labels[0, 0] = 1
    valid = torch.ones_like(labels, dtype=torch.bool)
    thresholds = AdaptiveThresholds(2)
    thresholds.collect(PseudoLabels(labels, torch.where(labels == 1, 0.48, 0.96), valid, valid))
    thresholds.commit(TAKEN)
    assert thresholds.of_classes(1.0).tolist() == pytest.approx([1.0, 0.5], rel=1e-6)
