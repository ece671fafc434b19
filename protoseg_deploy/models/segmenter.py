"""The network that is trained, distilled and exported: timm backbone, decoder, linear head."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.models.backbones import Backbone, registered_name
from protoseg_deploy.models.decoder_base import Decoder, settled
from protoseg_deploy.models.exportability import require_exportable
from protoseg_deploy.models.pretrained import pretrained_source
from protoseg_deploy.models.weights import require_weights_file
from protoseg_deploy.recipe import Features, Model
from protoseg_deploy.registry import DECODERS


@dataclass(frozen=True)
class SegmenterOutput:
    """What one forward pass leaves behind for losses; all maps cover the padded image."""

    logits: Tensor
    """``[B,C,h,w]``, at the decoder's stride."""
    embedding: Tensor
    """``[B,E,h,w]``, the decoder's last concatenation."""
    head_input: Tensor
    """``[B,F,h,w]``, what the linear head classifies; the same as `embedding` in decoders without a fusion."""
    pyramid: list[Tensor]
    """``[B,C_i,h_i,w_i]``, the backbone's maps, shallow to deep."""
    image_size: tuple[int, int]
    padded_size: tuple[int, int]

    def features(self, which: Features) -> Tensor:
        """``[B,D,h,w]`` per-pixel features for prototypes."""
        return self.embedding if which == "decoder_concat" else self.head_input

    def full_size_logits(self) -> Tensor:
        """``[B,C,H,W]`` float32 logits at the size of the image."""
        return resize_logits(self.logits, self.padded_size, self.image_size)


class Segmenter(nn.Module):
    """Uint8-range RGB images to logits; the prototype branch never becomes a part of it.

    Args:
        spec: the ``model`` section of a recipe.
        num_classes: classes of the linear head. With two classes of which the first is an implicit background, give
            ``binary=True``: one output channel, whose logit is measured against 0.
        binary: a single foreground class.
        pretrained: fetch timm's weights for the backbone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, spec: Model, num_classes: int, *, binary: bool = False, pretrained: bool = False) -> None:
        super().__init__()
        if binary and num_classes != 2:
            raise ValueError("a binary network has two classes, background and foreground")
        self.num_classes = num_classes
        self.binary = binary
        self.backbone = Backbone(spec.backbone, spec.output_stride, pretrained)
        decoder = DECODERS.get(spec.decoder)
        self.spec = settled(spec, self.backbone, decoder)
        self.decoder: Decoder = decoder(self.backbone, self.spec)
        self.dropout = nn.Dropout2d(spec.dropout)
        self.head = nn.Conv2d(self.decoder.feature_channels, 1 if binary else num_classes, 1)
        self.register_buffer("mean", torch.tensor(self.backbone.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(self.backbone.std).view(1, 3, 1, 1) * 255, persistent=False)

    def feature_channels(self, features: Features) -> int:
        """Channels of `SegmenterOutput.features`."""
        decoder = self.decoder
        return decoder.embedding_channels if features == "decoder_concat" else decoder.feature_channels

    def forward(self, images: Tensor) -> Tensor:
        """``[B,3,H,W]`` RGB in 0..255, uint8 or float, to ``[B,C,H,W]`` float32 logits."""
        return self.forward_features(images).full_size_logits()

    def forward_features(self, images: Tensor, channel_weights: Sequence[Tensor] | None = None) -> SegmenterOutput:
        """Like `forward`, with everything a training loss may want.

        Args:
            images: as in `forward`.
            channel_weights: ``[B,C_i]`` for each level of the pyramid, shallow to deep: what the decoder gets is
                multiplied by them. Dropping channels this way is the feature perturbation of some methods.
        """
        height, width = images.shape[-2:]
        normalised = self.pad(self.normalise(images))
        pyramid = self.backbone(normalised)
        if channel_weights is not None:
            pyramid = [
                level * weights[..., None, None].to(level.dtype)
                for level, weights in zip(pyramid, channel_weights, strict=True)
            ]
        padded = (normalised.shape[-2], normalised.shape[-1])
        return self.decode(pyramid, (height, width), padded)

    def decode(
        self, pyramid: list[Tensor], image_size: tuple[int, int], padded_size: tuple[int, int]
    ) -> SegmenterOutput:
        """What decoder and linear head make of the backbone's maps of images of a size, padded to another."""
        embedding, features = self.decoder(pyramid)
        logits = self.head(self.dropout(features))
        if self.binary:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return SegmenterOutput(logits, embedding, features, pyramid, image_size, padded_size)

    def normalise(self, images: Tensor) -> Tensor:
        """The mean is subtracted from ``[B,3,H*W,1]``: ONNX Runtime turns 8-bit convolutions to channels last, and with
        them a subtraction that has the shape of an image. Three numbers at a time it takes as long as the upsampling.
        """
        pixels = images.to(self.mean.dtype)
        planes = pixels.reshape(images.shape[0], 3, images.shape[2] * images.shape[3], 1) - self.mean
        return planes.reshape(images.shape) / self.std

    def pad(self, images: Tensor) -> Tensor:
        multiple = self.backbone.size_multiple
        if multiple == 1:
            return images
        height, width = images.shape[-2:]
        # Not `-side % multiple`: TensorRT cannot tell that the remainder of a negative side is not negative itself.
        right, bottom = ((side + multiple - 1) // multiple * multiple - side for side in (width, height))
        return F.pad(images, (0, right, 0, bottom))


def resize_logits(logits: Tensor, padded_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling in float32, then the padding cropped."""
    full = F.interpolate(logits.float(), size=padded_size, mode="bilinear", align_corners=False)
    return full[..., : image_size[0], : image_size[1]] if padded_size != image_size else full


def require_buildable(spec: Model) -> None:
    """Find out without computing or fetching anything whether a network can be built and started with its weights.

    Raises:
        UsageError: as `require_deployable`, or there is no file of weights, or none that can be fetched.
    """
    require_deployable(spec)
    if spec.weights == "pretrained":
        pretrained_source(registered_name(spec.backbone))
    elif spec.weights != "none":
        require_weights_file(Path(spec.weights).expanduser())


@functools.cache
def require_deployable(spec: Model) -> None:
    """Find out without computing anything whether a network can be built, and exported after training.

    Raises:
        UsageError: timm has no such backbone, its maps do not fit the decoder, or it cannot be exported.
    """
    require_exportable(spec)
    with torch.device("meta"):
        Segmenter(spec, 2)
