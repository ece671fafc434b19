"""Parts of backbones that are traced in another way than timm computes them."""

from types import SimpleNamespace

import pytest
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2Block
from timm.models.swin_transformer_v2_cr import SwinTransformerV2CrBlock

from protoseg_deploy.exporting.tracing.padding import constant_same_padding
from protoseg_deploy.exporting.tracing.window_masks import compared_window_masks
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Model

BLOCKS = (SwinTransformerBlock, SwinTransformerV2Block, SwinTransformerV2CrBlock)


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (4, 1)])
def test_same_padding_of_multiples_of_the_stride_is_constant(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layers = [Conv2dSame(3, 4, kernel, stride, dilation=dilation)]
    layers += [pool(kernel, stride) for pool in (AvgPool2dSame, MaxPool2dSame) if dilation == 1]
    for layer in layers:
        for height, width in ((16, 24), (8, 40)):
            images = torch.randn(2, 3, height, width)
            expected = layer(images)
            with constant_same_padding():
                found = layer(images)
            assert torch.equal(found, expected)


def test_images_are_padded_where_layers_pad_by_size() -> None:
    def multiple(backbone: str, **more: int) -> int:
        with torch.device("meta"):
            return Segmenter(
                Model(backbone=backbone, weights="none", decoder="lraspp", **more), 2
            ).backbone.size_multiple

    assert multiple("tf_efficientnet_lite0", output_stride=16) == 16
    assert multiple("tf_efficientnet_lite0", output_stride=32) == 32
    assert multiple("efficientnet_lite0", output_stride=16) == 1


@pytest.mark.parametrize("window", [(7, 7), (8, 4)])
@pytest.mark.parametrize("shift", [(3, 2), (0, 3), (3, 0), (0, 0)])
def test_masks_of_shifted_windows_are_those_of_timm(window: tuple[int, int], shift: tuple[int, int]) -> None:
    block = SimpleNamespace(window_size=window, shift_size=shift, window_area=window[0] * window[1])
    images = torch.zeros(2, 3 * window[0], 2 * window[1], 5)
    for kind in BLOCKS:
        expected = kind.get_attn_mask(block, images)
        with compared_window_masks():
            found = kind.get_attn_mask(block, images)
        assert (found is None) == (expected is None) == (not any(shift))
        assert expected is None or torch.equal(found, expected)
