"""Attention masks of shifted windows in a few operators.

In a Swin, windows that were shifted over the border hold pixels of opposite sides, which must not attend to each other.
timm numbers the regions by nine assignments to slices of a map, in every second block; traced for images of any size
they are most of the graph. The same numbers come from two comparisons a side.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock
from torch import Tensor

_FAR = -100.0
"""Added to the logits of pairs that must not attend to each other, as timm does."""


@contextmanager
def compared_window_masks() -> Iterator[None]:
    """Within the block, the Swins of timm make the masks of their shifted windows by comparisons."""
    blocks: list[Any] = [SwinTransformerBlock, SwinTransformerV2Block, SwinTransformerV2CrBlock]
    before = [block.get_attn_mask for block in blocks]
    for block in blocks:
        block.get_attn_mask = _mask
    try:
        yield
    finally:
        for block, method in zip(blocks, before, strict=True):
            block.get_attn_mask = method


def _mask(block: Any, x: Tensor) -> Tensor | None:
    """``[N,A,A]`` for the N windows of A pixels of ``[B,H,W,C]``; None where windows are not shifted."""
    (height, width), (rows, columns) = x.shape[1:3], block.window_size
    down, right = block.shift_size
    if not down and not right:
        return None
    regions = 3 * _regions(height, rows, down)[:, None] + _regions(width, columns, right)
    windows = regions.view(height // rows, rows, width // columns, columns).permute(0, 2, 1, 3)
    flat = windows.reshape(-1, rows * columns)
    return ((flat[:, :, None] != flat[:, None, :]).to(x.dtype)) * _FAR


def _regions(side: int, window: int, shift: int) -> Tensor:
    """Number of the region of each place along one side: 0, 1 or 2; all the same where nothing is shifted."""
    places = torch.arange(side)
    if not shift:
        return torch.zeros_like(places)
    return (places >= side - window).long() + (places >= side - shift).long()
