"""What every decoder is, and how maps of different strides meet in one."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F


class Decoder(nn.Module, ABC):
    """Base of all decoders; `embedding_channels` and `feature_channels` are set by the constructor."""

    embedding_channels: int
    feature_channels: int

    @abstractmethod
    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``[B,C_i,h_i,w_i]`` maps, shallow to deep, to embedding ``[B,D,h,w]`` and features ``[B,F,h,w]``."""


def resize_like(feature: Tensor, reference: Tensor) -> Tensor:
    """`feature` at the height and width of `reference`, bilinear with half-pixel centres."""
    return F.interpolate(feature, size=reference.shape[-2:], mode="bilinear", align_corners=False)
