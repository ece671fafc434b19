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
from protoseg_deploy.models.decoder_base import Decoder, require_levels, require_pyramid, resize_like
from protoseg_deploy.recipe import Model


class DeepLabV3Plus(Decoder):
    """Atrous spatial pyramid pooling joined with low-level features (Chen et al., ECCV 2018)."""

    min_batch = 2
    """The pooled branch normalises one value per image and channel over the batch."""

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_pyramid(backbone, spec.decoder)
        width = spec.decoder_channels
        self.aspp = ASPP(backbone.channels[-1], list(spec.aspp_dilations or _dilations(backbone.strides[-1])), width)
        self.aspp.project[-1] = nn.Dropout(spec.dropout)
        self.low_level = Conv2dNormActivation(backbone.channels[0], spec.low_level_channels, 1)
        self.embedding_channels = width + spec.low_level_channels
        self.feature_channels = width
        self.fuse = nn.Sequential(
            Conv2dNormActivation(self.embedding_channels, width, 3), Conv2dNormActivation(width, width, 3)
        )

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        low = self.low_level(pyramid[0])
        context = resize_like(self.aspp(pyramid[-1]), low)
        embedding = torch.cat([context, low], dim=1)
        return embedding, self.fuse(embedding)


class LRASPP(Decoder):
    """Lite reduced atrous spatial pyramid pooling for the edge (Howard et al., ICCV 2019), at stride 8."""

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_pyramid(backbone, spec.decoder)
        deep, low, width = backbone.channels[-1], backbone.channels[1], spec.decoder_channels
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

    Takes plain ViTs too: their equal-stride maps become a pyramid first (Li et al., ECCV 2022).
    """

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_levels(backbone, spec.decoder)
        width = spec.decoder_channels
        self.to_pyramid = _vit_pyramid(backbone.channels) if backbone.is_plain_vit else None
        self.fpn = FeaturePyramidNetwork(backbone.channels, width)
        self.smooth = nn.ModuleList(Conv2dNormActivation(width, width, 3) for _ in backbone.channels)
        self.embedding_channels = self.feature_channels = width

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        if self.to_pyramid is not None:
            pyramid = [resample(level) for resample, level in zip(self.to_pyramid, pyramid, strict=True)]
        levels = self.fpn(OrderedDict((str(number), level) for number, level in enumerate(pyramid))).values()
        smoothed = [smooth(level) for smooth, level in zip(self.smooth, levels, strict=True)]
        embedding = smoothed[0]
        for level in smoothed[1:]:
            embedding = embedding + resize_like(level, smoothed[0])
        return embedding, embedding


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
