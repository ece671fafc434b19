"""What every decoder is, and how maps of different strides meet in one."""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.recipe import Model

_VIT_LEVELS = 4


class Decoder(nn.Module, ABC):
    """Base of all decoders; `embedding_channels` and `feature_channels` are set by the constructor."""

    embedding_channels: int
    feature_channels: int
    min_batch = 1
    """Images that a training step needs at least."""

    @classmethod
    def preset_channels(cls, backbone: Backbone) -> int:
        """``model.decoder_channels`` where a recipe does not say."""
        return 256

    @abstractmethod
    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        """``[B,C_i,h_i,w_i]`` maps, shallow to deep, to embedding ``[B,D,h,w]`` and features ``[B,F,h,w]``."""


def settled(spec: Model, backbone: Backbone, decoder: type[Decoder]) -> Model:
    """A spec that leaves nothing to the decoder and the backbone: its network is the same in every later version."""
    preset = getattr(decoder, "preset_channels", Decoder.preset_channels)
    channels = preset(backbone) if spec.decoder_channels is None else spec.decoder_channels
    separable = backbone.is_mobile if spec.separable is None else spec.separable
    return spec.model_copy(update={"decoder_channels": channels, "separable": separable})


def width_of(spec: Model) -> int:
    """``decoder_channels`` of a settled spec."""
    assert spec.decoder_channels is not None
    return spec.decoder_channels


def resize_like(feature: Tensor, reference: Tensor) -> Tensor:
    """`feature` at the height and width of `reference`, bilinear with half-pixel centres."""
    return F.interpolate(feature, size=reference.shape[-2:], mode="bilinear", align_corners=False)


def require_pyramid(backbone: Backbone, decoder: str) -> None:
    """Raises UsageError where a backbone has not the maps of several strides that a decoder joins."""
    if len(backbone.strides) == 1:
        raise UsageError(
            f"model.backbone: {backbone.name} gives one feature map only, of stride {backbone.strides[0]}; "
            f"{decoder} joins several",
            "Choose another backbone.",
        )
    if backbone.is_plain_vit:
        raise UsageError(
            f"model.decoder: {decoder} needs a backbone with several strides; model.backbone {backbone.name} is a "
            f"plain ViT, whose maps all have stride {backbone.strides[0]}",
            "Set model.decoder to fpn or dpt.",
        )


def require_levels(backbone: Backbone, decoder: str) -> None:
    """Raises UsageError where maps of one stride are not as many as a decoder makes a pyramid of."""
    if backbone.is_plain_vit and len(backbone.strides) != _VIT_LEVELS:
        raise UsageError(
            f"model.backbone: {backbone.name} gives {len(backbone.strides)} feature maps of one stride; {decoder} "
            f"makes a pyramid of {_VIT_LEVELS}",
            "Choose another backbone.",
        )
