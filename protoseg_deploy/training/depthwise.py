"""Depthwise convolutions in bf16 on a CPU, with their backward pass in fp32.

oneDNN has fast kernels for every convolution in bf16 but for the gradients of depthwise ones, which take two to four
times as long as in fp32, conversions included. In a MobileNet that is a third of a training step.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def differentiate_depthwise_in_fp32(network: nn.Module) -> None:
    """Change the depthwise convolutions of a network in place; parameters and forward passes stay as they are."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_depthwise(module):
            module.__class__ = _DepthwiseConv2d


class _DepthwiseConv2d(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        if not torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        dtype = torch.get_autocast_dtype("cpu")
        geometry = self.stride, self.padding, self.dilation
        bias = None if self.bias is None else self.bias.to(dtype)
        output: Tensor = _Depthwise.apply(input.to(dtype), self.weight.to(dtype), bias, *geometry)
        return output


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        single = gradient.float(), images.float(), weight.float()
        geometry = (*ctx.geometry, False, [0, 0], len(weight))
        found = torch.ops.aten.convolution_backward(*single, [len(weight)], *geometry, ctx.needs_input_grad[:3])
        return *(None if value is None else value.to(gradient.dtype) for value in found), None, None, None


def _is_depthwise(convolution: nn.Conv2d) -> bool:
    groups = convolution.groups
    numbers = convolution.padding_mode == "zeros" and not isinstance(convolution.padding, str)
    return groups > 1 and groups == convolution.in_channels == convolution.out_channels and numbers
