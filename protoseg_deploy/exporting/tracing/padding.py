"""TensorFlow's SAME padding as constants.

A layer with SAME padding pads by ``max((ceil(n / stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)`` pixels
in all, ``n`` being the side of its input. Traced for images of any size, every layer gets a formula of its own, which
takes minutes. Images are padded to a multiple of the network's stride (`Backbone.size_multiple`), so that in most
networks every ``n`` is a multiple of the stride of its layer: ``max((kernel - 1) * dilation + 1 - stride, 0)`` is left.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import padding
from torch.fx.experimental.symbolic_shapes import statically_known_true


@contextmanager
def constant_same_padding() -> Iterator[None]:
    """Within the block, timm's layers pad by a constant where their input is known to be a multiple of their stride."""
    before = padding.get_same_padding
    padding.get_same_padding = _same_padding
    try:
        yield
    finally:
        padding.get_same_padding = before


def _same_padding(x: int, kernel_size: int, stride: int, dilation: int) -> Any:
    """Pixels to add to a side `x`; symbolic where `x` is."""
    reach = (kernel_size - 1) * dilation + 1
    if statically_known_true(x % stride == 0):
        return max(reach - stride, 0)
    return torch.sym_max(((x + stride - 1) // stride - 1) * stride + reach - x, 0)
