"""Windows of attention in a few operators.

timm's Swins roll and pad a map, cut it into windows, and undo all that, in every block; every second block also numbers
the regions of a mask by nine assignments to slices. Traced for images of any size, that is most of the graph, and as
much in a DaViT, which does not roll. Here a stage computes once which pixel goes to which place of which window, and
each of its blocks gathers pixels twice.

The Hiera of SAM 2 pads by remainders; counted in windows, what follows has short formulas.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from timm.models import hieradet_sam2
from timm.models.davit import DaVitStage, SpatialBlock
from timm.models.swin_transformer import SwinTransformerStage
from timm.models.swin_transformer_v2 import SwinTransformerV2Stage
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrStage
from timm.models.twins import LocallyGroupedAttn
from torch import Tensor, nn
from torch.nn import functional as F

_FAR = -100.0
"""Added to the logits of pairs that must not attend to each other, as timm does."""
_SWINS = (SwinTransformerStage, SwinTransformerV2Stage, SwinTransformerV2CrStage)


def gather_windows(network: nn.Module) -> None:
    """Have the Swins, for images of any size, and DaViTs in a network compute the same by gathering; in place.

    A Twins keeps its windows in an axis of their own, with which the exporter does not take the fused operator.
    """
    for stage in network.modules():
        if isinstance(stage, LocallyGroupedAttn):
            stage.fused_attn = False
        if not isinstance(stage, (*_SWINS, DaVitStage)):
            continue
        layouts: dict[Any, _Layout] = {}
        stage.register_forward_pre_hook(partial(_forget, layouts))
        for block in stage.modules():
            if isinstance(block, SpatialBlock):
                setattr(block, "forward", partial(_davit_block, block, layouts))  # noqa: B010 - a method, to mypy
            elif getattr(block, "dynamic_mask", False):
                name = "_attn" if hasattr(block, "_attn") else "_shifted_window_attn"
                setattr(block, name, partial(_swin_attention, block, layouts))


@contextmanager
def counted_windows() -> Iterator[None]:
    """Within the block, the Hiera of SAM 2 counts windows."""
    by_remainder = hieradet_sam2._calc_pad
    hieradet_sam2._calc_pad = _padded_by_count
    try:
        yield
    finally:
        hieradet_sam2._calc_pad = by_remainder


@dataclass(frozen=True)
class _Layout:
    """Which pixel of a map of ``H*W`` pixels, then a zero, goes to which place of N windows of A pixels, and back."""

    windows: int
    area: int
    into: Tensor
    """``[N*A]``."""
    back: Tensor
    """``[H*W]``."""
    mask: Tensor | None
    """``[N,A,A]``: pixels of opposite sides of the map, in one window by the shift, must not attend to each other."""


def _forget(layouts: dict[Any, _Layout], *_: Any) -> None:
    layouts.clear()


def _swin_attention(block: Any, layouts: dict[Any, _Layout], x: Tensor) -> Tensor:
    """``[B,H,W,C]`` to the same: what the method of a block does."""
    batch, height, width, channels = x.shape
    key = (*block.window_size, *block.shift_size)
    if key not in layouts:
        layouts[key] = _layout((height, width), block.window_size, block.shift_size, x.dtype)
    attend = partial(block.attn, mask=layouts[key].mask)
    return _in_windows(attend, layouts[key], x.reshape(batch, height * width, channels)).view(x.shape)


def _davit_block(block: Any, layouts: dict[Any, _Layout], x: Tensor) -> Tensor:
    """``[B,C,H,W]`` to the same: a spatial block, attention and perceptron, each after a positional convolution."""
    if block.window_size not in layouts:
        layouts[block.window_size] = _layout((x.shape[2], x.shape[3]), block.window_size, (0, 0), x.dtype)
    pixels: Tensor = block.cpe1(x).flatten(2).transpose(1, 2)
    attended = _in_windows(block.attn, layouts[block.window_size], block.norm1(pixels))
    x = block.cpe2((pixels + block.drop_path1(attended)).transpose(1, 2).view(x.shape))
    if block.mlp is None:
        return x
    pixels = x.flatten(2).transpose(1, 2)
    pixels = pixels + block.drop_path2(block.mlp(block.norm2(pixels)))
    return pixels.transpose(1, 2).view(x.shape)


def _in_windows(attend: Callable[[Tensor], Tensor], layout: _Layout, pixels: Tensor) -> Tensor:
    """``[B,H*W,C]`` to the same, by what takes and gives ``[B*N,A,C]``."""
    batch, _, channels = pixels.shape
    windows = F.pad(pixels, (0, 0, 0, 1)).index_select(1, layout.into)
    attended = attend(windows.view(batch * layout.windows, layout.area, channels))
    return attended.view(batch, layout.windows * layout.area, channels).index_select(1, layout.back)


def _layout(size: tuple[int, int], window: tuple[int, int], shift: tuple[int, int], dtype: torch.dtype) -> _Layout:
    (height, width), (rows, columns) = size, window
    down, across = _count(height, rows), _count(width, columns)
    source_rows, source_columns = _rolled(height, down * rows, shift[0]), _rolled(width, across * columns, shift[1])
    outside = (source_rows == height)[:, None] | (source_columns == width)
    sources = torch.where(outside, height * width, source_rows[:, None] * width + source_columns)
    mask = None
    if any(shift):
        regions = 3 * _regions(down, rows, shift[0])[:, None] + _regions(across, columns, shift[1])
        numbers = _cut(regions, window, (down, across))
        mask = ((numbers[:, :, None] != numbers[:, None, :]).to(dtype)) * _FAR
    below, row = _place(height, rows, shift[0])
    beside, column = _place(width, columns, shift[1])
    area = rows * columns
    places = (below * across * area + row * columns)[:, None] + beside * area + column
    return _Layout(down * across, area, _cut(sources, window, (down, across)).reshape(-1), places.reshape(-1), mask)


def _padded_by_count(H: int, W: int, window_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Padded height and width, and the pixels added to them; the names are those of timm's function."""
    height, width = _count(H, window_size[0]) * window_size[0], _count(W, window_size[1]) * window_size[1]
    return height, width, height - H, width - W


def _count(side: int, window: int) -> int:
    """Windows along a side that they cover."""
    return (side + window - 1) // window


def _rolled(side: int, padded: int, shift: int) -> Tensor:
    """``[padded]``: the pixel that comes to each place when a side is rolled, then padded; `side` for the padding."""
    places = torch.arange(padded)
    if not shift:
        return places.clamp(max=side)
    return torch.where(places < side - shift, places + shift, torch.where(places < side, places + shift - side, side))


def _place(side: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """``[side]`` each: window, and place in it, to which each pixel of a side comes when it is rolled."""
    places = torch.arange(side)
    if shift:
        places = torch.where(places >= shift, places - shift, places - shift + side)
    number = torch.div(places, window, rounding_mode="floor")
    return number, places - number * window


def _regions(count: int, window: int, shift: int) -> Tensor:
    """``[count*window]``: the region of each place along a side: 0, 1 or 2; all the same where nothing is shifted."""
    places, side = torch.arange(count * window), count * window
    if not shift:
        return torch.zeros_like(places)
    return (places >= side - window).long() + (places >= side - shift).long()


def _cut(plane: Tensor, window: tuple[int, int], count: tuple[int, int]) -> Tensor:
    """``[rows,columns]`` to ``[N,A]``."""
    (rows, columns), (down, across) = window, count
    return plane.view(down, rows, across, columns).transpose(1, 2).reshape(down * across, rows * columns)
