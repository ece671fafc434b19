"""Bilinear upsampling of logits, and its adjoint, in the layout that is cheapest for what follows.

Interpolation is linear and separable: along one side it is a product with a band matrix, which has two numbers in each
row. On a CPU blocks of that matrix are multiplied with blocks of the map, first along the width, while there are few
rows, then along the height, a row of all images and classes at a time. The result lies as ``[H,B,C,W]``:
reductions over classes run along memory, and nothing is copied between layouts. Elsewhere torch's own interpolation is
used.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]

_BLOCK = 32
"""Numbers along a side that are made at once. Longer blocks multiply more zeros, shorter ones keep products small."""


def enlarge(coarse: Tensor, padded_size: Size, image_size: Size) -> Tensor:
    """``[B,C,h,w]`` over the padded image to ``[B,C,H,W]`` over the image, as `torch.nn.functional.interpolate`.

    Args:
        coarse: float32 or float64.
        padded_size: height and width that `coarse` covers.
        image_size: H and W, cropped at the right and at the bottom.

    Returns:
        Of any layout in memory; nobody else holds it.
    """
    if coarse.device.type != "cpu":
        padded = F.interpolate(coarse, size=padded_size, mode="bilinear", align_corners=False)
        return padded[..., : image_size[0], : image_size[1]].contiguous()
    batch, channels, rows, columns = coarse.shape
    height, width = image_size
    lines = coarse.permute(2, 0, 1, 3).reshape(-1, columns)
    wide = lines.new_empty(len(lines), width)
    for target, source, matrix in _bands(columns, padded_size[1], width, coarse.dtype):
        torch.mm(lines[:, source], matrix.t(), out=wide[:, target])
    wide = wide.view(rows, -1)
    full = coarse.new_empty(height, batch, channels, width)
    for target, source, matrix in _bands(rows, padded_size[0], height, coarse.dtype):
        torch.mm(matrix, wide[source], out=full.view(height, -1)[target])
    return full.permute(1, 2, 0, 3)


def shrink(gradient: Tensor, padded_size: Size, coarse_size: Size) -> Tensor:
    """The adjoint of `enlarge`: ``[B,C,H,W]`` to ``[B,C,h,w]``.

    Args:
        gradient: of what `enlarge` returns, fastest in the layout that has.
        padded_size: as there.
        coarse_size: h and w.
    """
    batch, channels, height, width = gradient.shape
    rows, columns = coarse_size
    if gradient.device.type != "cpu":
        padded = gradient.new_zeros(batch, channels, *padded_size)
        padded[..., :height, :width] = gradient
        shape = [batch, channels, rows, columns]
        shrunk: Tensor = torch.ops.aten.upsample_bilinear2d_backward(padded, padded_size, shape, False)
        return shrunk
    full = gradient.permute(2, 0, 1, 3).reshape(height, -1)
    wide = gradient.new_zeros(rows, batch * channels * width)
    for target, source, matrix in _bands(rows, padded_size[0], height, gradient.dtype):
        wide[source].addmm_(matrix.t(), full[target])
    wide = wide.view(-1, width)
    lines = gradient.new_zeros(len(wide), columns)
    for target, source, matrix in _bands(columns, padded_size[1], width, gradient.dtype):
        lines[:, source].addmm_(wide[:, target], matrix)
    return lines.view(rows, batch, channels, columns).permute(1, 2, 0, 3)


class _Band(NamedTuple):
    """A block of rows of an interpolation matrix, without the columns in which it is zero."""

    target: slice
    source: slice
    matrix: Tensor


@lru_cache(maxsize=64)
def _bands(cells: int, padded: int, kept: int, dtype: torch.dtype) -> tuple[_Band, ...]:
    """From `cells` numbers along a side to the first `kept` of `padded` ones."""
    identity = torch.eye(cells, dtype=torch.float64)[None]
    whole = F.interpolate(identity, size=padded, mode="linear", align_corners=False)[0].t()[:kept].to(dtype)
    bands = []
    for start in range(0, kept, _BLOCK):
        block = whole[start : start + _BLOCK]
        used = block.any(dim=0).nonzero().flatten()
        first, end = int(used[0]), int(used[-1]) + 1
        target = slice(start, start + len(block))
        bands.append(_Band(target, slice(first, end), block[:, first:end].contiguous()))
    return tuple(bands)
