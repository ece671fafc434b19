"""Running class frequencies against loops."""

import math

import pytest
import torch

from protoseg_deploy.methods import class_frequencies
from protoseg_deploy.methods.class_frequencies import ClassFrequencies

TAKEN, SKIPPED = torch.tensor(True), torch.tensor(False)


def labels_of(*pixels):
    return torch.tensor(pixels).view(1, 1, -1)


def collect(frequencies, labels):
    frequencies.collect(labels, labels != 255)


def logarithms_of(average):
    return pytest.approx([math.log(max(share, 1e-5)) for share in average], rel=1e-4)


def test_frequencies_are_running_shares():
    frequencies = ClassFrequencies(3, momentum=0.6)
    steps = [labels_of(0, 0, 0, 1, 255), labels_of(0, 1, 1, 1), labels_of(2, 0, 255, 255), labels_of(1, 1, 0, 0)]
    average = [0.0, 0.0, 0.0]
    for number, labels in enumerate(steps):
        known = [label for label in labels.flatten().tolist() if label != 255]
        keep = min(number / (number + 1), 0.6)
        average = [keep * old + (1 - keep) * known.count(index) / len(known) for index, old in enumerate(average)]
        collect(frequencies, labels)
        assert frequencies.logarithms().tolist() == logarithms_of(average)
        frequencies.commit(TAKEN)
    assert frequencies.logarithms().tolist() == logarithms_of(average), "of the steps before, until this one counts"


def test_a_skipped_step_leaves_no_trace():
    frequencies, other = ClassFrequencies(3), ClassFrequencies(3)
    for labels, taken in ((labels_of(0, 1), TAKEN), (labels_of(2, 2), SKIPPED), (labels_of(0, 0), TAKEN)):
        collect(frequencies, labels)
        frequencies.commit(taken)
        if taken:
            collect(other, labels)
            other.commit(taken)
    assert all(torch.equal(a, b) for a, b in zip(frequencies.buffers(), other.buffers(), strict=True))


def test_a_step_without_a_pixel_changes_nothing():
    frequencies, other = ClassFrequencies(3), ClassFrequencies(3)
    for labels in (labels_of(255, 255), labels_of(0, 1), labels_of(255, 255), labels_of(2, 2)):
        collect(frequencies, labels)
        frequencies.commit(TAKEN)
        if (labels != 255).any():
            collect(other, labels)
            other.commit(TAKEN)
        assert torch.equal(frequencies.logarithms(), other.logarithms())
    assert all(torch.equal(a, b) for a, b in zip(frequencies.buffers(), other.buffers(), strict=True))


def test_parts_of_a_step_and_processes_count_together(monkeypatch):
    whole, parts = ClassFrequencies(3), ClassFrequencies(3)
    collect(whole, labels_of(0, 1, 1, 2, 2, 2))
    collect(parts, labels_of(0, 1, 1))
    collect(parts, labels_of(2, 2, 2))
    assert torch.equal(parts.logarithms(), whole.logarithms())
    shared = ClassFrequencies(3)
    monkeypatch.setattr(class_frequencies, "sum_over_processes", lambda counts: counts + torch.tensor([0.0, 0.0, 3.0]))
    collect(shared, labels_of(0, 1, 1))
    assert torch.equal(shared.logarithms(), whole.logarithms())
