"""Decoders: a feature pyramid in, an embedding and the features of the linear head out, both at one stride.

The *features* are what the 1x1 linear head classifies. In ``deeplabv3plus`` the *embedding* is the concatenation of
context and low-level features, in which the prototype paper keeps its prototypes, and two convolutions lie between it
and the features; in the other decoders the two are the same tensor.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork

from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.decoder_base import Decoder, require_levels, require_pyramid, resize_like, width_of
from protoseg_deploy.recipe import Model


class DeepLabV3Plus(Decoder):
    """Atrous spatial pyramid pooling joined with low-level features (Chen et al., ECCV 2018).

    With ``separable``, its 3x3 convolutions are depthwise separable, as in the paper.
    """

    min_batch = 2
    """The pooled branch normalises one value per image and channel over the batch."""

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_pyramid(backbone, spec.decoder)
        width, deep = width_of(spec), backbone.channels[-1]
        dilations = list(spec.aspp_dilations or _dilations(backbone.strides[-1]))
        self.aspp = ASPP(deep, dilations, width)
        self.aspp.project[-1] = nn.Dropout(spec.dropout)
        if spec.separable:
            for place, dilation in enumerate(dilations, start=1):
                self.aspp.convs[place] = SeparableConv(deep, width, dilation=dilation)
        self.low_level = Conv2dNormActivation(backbone.channels[0], spec.low_level_channels, 1)
        self.embedding_channels = width + spec.low_level_channels
        self.feature_channels = width
        convolution = SeparableConv if spec.separable else Conv2dNormActivation
        self.fuse = nn.Sequential(convolution(self.embedding_channels, width, 3), convolution(width, width, 3))

    @classmethod
    def preset_channels(cls, backbone: Backbone) -> int:
        return 128 if backbone.is_mobile else 256

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        low = self.low_level(pyramid[0])
        context = resize_like(self.aspp(pyramid[-1]), low)
        embedding = torch.cat([context, low], dim=1)
        return embedding, self.fuse(embedding)


class LRASPP(Decoder):
    """Lite reduced atrous spatial pyramid pooling for the edge (Howard et al., ICCV 2019), at stride 8."""

    @classmethod
    def preset_channels(cls, backbone: Backbone) -> int:
        return 128  # as published

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_pyramid(backbone, spec.decoder)
        deep, low, width = backbone.channels[-1], backbone.channels[1], width_of(spec)
        self.project = Conv2dNormActivation(deep, width, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(deep, width, 1, bias=False), nn.Sigmoid())
        self.embedding_channels = self.feature_channels = low + width

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        low, deep = pyramid[1], pyramid[-1]
        gated = self.project(deep) * self.gate(deep)
        embedding = torch.cat([resize_like(gated, low), low], dim=1)
        return embedding, embedding


class SemanticFPN(Decoder):
    """Feature pyramid network whose levels are summed at the finest one (Kirillov et al., CVPR 2019).

    Takes plain ViTs too: their equal-stride maps become a pyramid first (Li et al., ECCV 2022). With ``separable``, its
    3x3 convolutions are depthwise separable.
    """

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_levels(backbone, spec.decoder)
        width = width_of(spec)
        self.to_pyramid = _vit_pyramid(backbone.channels) if backbone.is_plain_vit else None
        self.fpn = FeaturePyramidNetwork(backbone.channels, width)
        convolution = Conv2dNormActivation
        if spec.separable:
            convolution = SeparableConv
            self.fpn.layer_blocks = nn.ModuleList(SeparableConv(width, width) for _ in backbone.channels)
        self.smooth = nn.ModuleList(convolution(width, width, 3) for _ in backbone.channels)
        self.embedding_channels = self.feature_channels = width

    @classmethod
    def preset_channels(cls, backbone: Backbone) -> int:
        """Twice the channels of the finest map, 64 to 256: a decoder no heavier than what it decodes."""
        return max(64, min(256, 2 * backbone.channels[0]))

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        if self.to_pyramid is not None:
            pyramid = [resample(level) for resample, level in zip(self.to_pyramid, pyramid, strict=True)]
        levels = self.fpn(OrderedDict((str(number), level) for number, level in enumerate(pyramid))).values()
        smoothed = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        embedding = smoothed[0]
        for level in smoothed[1:]:
            embedding = embedding + resize_like(level, smoothed[0])
        return embedding, embedding


class FPNLite(Decoder):
    """A narrow feature pyramid network (Lin et al., CVPR 2017) with one depthwise separable convolution a level.

    The levels are summed from the deepest to the finest, each at its own size, so that little is computed at stride 4.
    Only convolutions, resizing and sums: nothing that 8 bits compute badly.
    """

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_pyramid(backbone, spec.decoder)
        width = width_of(spec)
        self.fpn = FeaturePyramidNetwork(backbone.channels, width)
        self.fpn.layer_blocks = nn.ModuleList(nn.Identity() for _ in backbone.channels)
        self.smooth = nn.ModuleList(SeparableConv(width, width, 5) for _ in backbone.channels)
        self.embedding_channels = self.feature_channels = width

    @classmethod
    def preset_channels(cls, backbone: Backbone) -> int:
        return 64

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        levels = self.fpn(OrderedDict((str(number), level) for number, level in enumerate(pyramid))).values()
        *finer, features = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        for level in reversed(finer):
            features = level + resize_like(features, level)
        return features, features


class SeparableConv(nn.Sequential):
    """A depthwise and a 1x1 convolution, both with batch normalisation and ReLU."""

    def __init__(self, channels: int, out_channels: int, kernel: int = 3, dilation: int = 1) -> None:
        super().__init__(
            Conv2dNormActivation(channels, channels, kernel, dilation=dilation, groups=channels),
            Conv2dNormActivation(channels, out_channels, 1),
        )


def _dilations(stride: int) -> tuple[int, int, int]:
    return {8: (12, 24, 36), 16: (6, 12, 18)}.get(stride, (3, 6, 9))


def _vit_pyramid(channels: list[int]) -> nn.ModuleList:
    """Equal-stride maps to four times, twice, once and half the resolution."""
    return nn.ModuleList(
        [
            nn.Sequential(
                nn.ConvTranspose2d(channels[0], channels[0], 2, stride=2),
                nn.GELU(),
                nn.ConvTranspose2d(channels[0], channels[0], 2, stride=2),
            ),
            nn.ConvTranspose2d(channels[1], channels[1], 2, stride=2),
            nn.Identity(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
    )
