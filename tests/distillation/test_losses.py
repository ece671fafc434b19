"""Distillation losses against plain references, and what the teacher's targets are."""

import numpy as np
import pytest
import torch

from protoseg_deploy.distillation.method import FrozenTeacher, channel_divergence, pixel_divergence
from protoseg_deploy.methods import PrototypeBank
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Model


def softmax(values, axis):
    exponents = np.exp(values - values.max(axis=axis, keepdims=True))
    return exponents / exponents.sum(axis=axis, keepdims=True)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 4, 5, generator=generator)


def test_pixel_divergence_is_the_mean_kl_over_the_mask(pair):
    logits, target = pair
    mask = torch.ones(2, 4, 5)
    mask[1, :, 2:] = 0
    student, teacher = softmax(logits.numpy() / 3, 1), softmax(target.numpy() / 3, 1)
    expected = (teacher * np.log(teacher / student)).sum(1)[mask.bool().numpy()].mean() * 9
    assert pixel_divergence(logits, target, mask, 3.0).item() == pytest.approx(expected, rel=1e-4)


def test_channel_divergence_compares_where_each_class_responds(pair):
    logits, target = pair
    student = softmax(logits.numpy().reshape(2, 3, 20) / 4, 2)
    teacher = softmax(target.numpy().reshape(2, 3, 20) / 4, 2)
    expected = (teacher * np.log(teacher / student)).sum(2).mean() * 16
    assert channel_divergence(logits, target, torch.ones(2, 1, 4, 5), 4.0).item() == pytest.approx(expected, rel=1e-4)


def test_both_are_zero_for_a_perfect_student_and_blind_outside_the_mask(pair):
    _, target = pair
    mask = torch.ones(2, 1, 4, 5)
    mask[..., 3:] = 0
    student = target.clone()
    student[..., 3:] = 7
    assert pixel_divergence(student, target, mask[:, 0], 2.0).item() == pytest.approx(0, abs=1e-6)
    assert channel_divergence(student, target, mask, 4.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("target", ["linear", "prototype", "mean"])
def test_the_target_is_the_named_head_or_their_mean(target):
    torch.manual_seed(0)
    network = Segmenter(Model(backbone="resnet10t", decoder="lraspp", decoder_channels=8), 3).eval()
    bank = PrototypeBank(3, 2, network.feature_channels("head_input"), temperature=0.1)
    bank.place(torch.randn(3, 2, network.feature_channels("head_input")))
    images = torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8)
    with torch.no_grad():
        output = network.forward_features(images)
    linear = (output.logits / 2).softmax(1)
    prototype = (bank.dense_logits(output.head_input) / 2).softmax(1)
    expected = {"linear": linear, "prototype": prototype, "mean": (linear + prototype) / 2}[target]
    given = (FrozenTeacher(network, target, bank).logits(images, temperature=2.0) / 2).softmax(1)
    assert torch.allclose(given, expected, atol=1e-5)
