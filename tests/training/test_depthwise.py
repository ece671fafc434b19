"""Depthwise gradients in bf16 against those of torch in fp32 and in bf16."""

import pytest
import torch
from torch import nn

from protoseg_deploy.training.depthwise import differentiate_depthwise_in_fp32


def network(**options):
    torch.manual_seed(0)
    return nn.Conv2d(6, 6, 3, groups=6, **options)


def passes(convolution, images, dtype):
    """Output and gradients of images and weight, all fp32."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = convolution(images)
    generator = torch.Generator().manual_seed(2)
    (output * torch.randn(output.shape, generator=generator)).sum().backward()
    gradients = images.grad, convolution.weight.grad
    return [value.detach().float() for value in (output, *gradients)]


@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2, "bias": False}]
)
def test_values_are_those_of_bf16_and_gradients_close_to_fp32(options):
    images = torch.randn(2, 6, 17, 13, generator=torch.Generator().manual_seed(1))
    changed = network(**options)
    differentiate_depthwise_in_fp32(nn.Sequential(changed))
    output, *gradients = passes(changed, images, torch.bfloat16)
    assert torch.equal(output, passes(network(**options), images, torch.bfloat16)[0])
    for found, exact in zip(gradients, passes(network(**options), images, torch.float32)[1:], strict=True):
        torch.testing.assert_close(found, exact, rtol=0.02, atol=0.02 * exact.abs().max().item())


def test_without_autocast_nothing_changes():
    images = torch.randn(2, 6, 9, 9)
    changed = network(padding=1)
    differentiate_depthwise_in_fp32(changed)
    for found, expected in zip(
        passes(changed, images, torch.float32), passes(network(padding=1), images, torch.float32), strict=True
    ):
        assert torch.equal(found, expected)


def test_other_convolutions_and_the_parameters_stay():
    network_ = nn.Sequential(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 12, 3, groups=6), nn.Conv2d(12, 12, 3, groups=12))
    names = set(network_.state_dict())
    differentiate_depthwise_in_fp32(network_)
    assert [type(layer) is nn.Conv2d for layer in network_] == [True, True, False]
    assert set(network_.state_dict()) == names
