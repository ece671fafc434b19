"""TensorFlow's SAME padding as constants.

A layer with SAME padding pads by ``max((ceil(n / stride) - 1) * stride + (kernel - 1) * dilation + 1 - n, 0)`` pixels
in all, ``n`` being the side of its input. Traced for images of any size, every layer gets a formula of its own, which
takes minutes. Images are padded to a multiple of the network's stride (`Backbone.size_multiple`), so that every ``n``
is a multiple of the stride of its layer, and what is left is ``max((kernel - 1) * dilation + 1 - stride, 0)``.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from timm.layers import padding


@contextmanager
def constant_same_padding() -> Iterator[None]:
    """Within the block, timm's layers pad as for inputs whose sides are multiples of their strides."""
    by_size = padding.get_same_padding

    def constant(x: int, kernel_size: int, stride: int, dilation: int) -> int:
        return max((kernel_size - 1) * dilation + 1 - stride, 0)

    padding.get_same_padding = constant
    try:
        yield
    finally:
        padding.get_same_padding = by_size
