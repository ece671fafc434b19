"""Device and pinned host memory that is allocated once and grows with the largest batch seen."""

from math import prod
from typing import Any

import torch
from torch import Tensor

_ALIGNMENT = 256
"""Bytes; what TensorRT asks of the address of every input and output. PyTorch's own allocations have it."""


class GrowingBuffer:
    """Memory of one type, handed out in any shape.

    A view stays valid until a larger one is asked for: its memory is the same as that of every view before.

    Args:
        dtype: of the elements.
        device: where it lies; None: in page-locked host memory, which the GPU copies from and to by itself.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device | None) -> None:
        where: dict[str, Any] = {"pin_memory": True} if device is None else {"device": device}
        self._allocate = {"dtype": dtype, **where}
        self._memory = torch.empty(0, **self._allocate)

    def view(self, shape: tuple[int, ...]) -> Tensor:
        """Uninitialised memory of that shape."""
        count = prod(shape)
        if self._memory.numel() < count:
            self._memory = torch.empty(count, **self._allocate)
        return self._memory[:count].view(shape)


def usable_in_place(images: Tensor) -> bool:
    """Whether an engine can read a CUDA tensor where it lies: contiguous and aligned."""
    return images.is_contiguous() and images.data_ptr() % _ALIGNMENT == 0
