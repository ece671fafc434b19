"""What leaves the building: uint8 images in, uint8 class maps out, everything between inside one module."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.models.segmenter import Segmenter, resize_logits
from protoseg_deploy.recipe import scale_ratio


class DeployedSegmenter(nn.Module):
    """Input scaling, normalisation, network, upsampling, argmax and cast as one module.

    The PyTorch runtime runs it and the exporter traces it, so that both compute the same function.

    Args:
        segmenter: the network, in eval mode.
        input_scale: the network sees the images at this scale (bilinear, half-pixel centres, no antialiasing: what
            inference engines implement); class maps come back at the size of the input.
        confidence: add a second output, the probability of the winning class as uint8 (0..255).
        logits: add an output of float32 logits ``[B,C,H,W]`` at the size of the input.
    """

    def __init__(
        self, segmenter: Segmenter, input_scale: float = 1.0, *, confidence: bool = False, logits: bool = False
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.input_scale = input_scale
        self.confidence = confidence
        self.logits = logits

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``[B,H,W,3]`` uint8 RGB to ``([B,H,W] uint8,)`` and, as asked, confidence and logits."""
        logits = self.full_size_logits(images)
        outputs = [logits.argmax(dim=1).to(class_map_dtype(self.segmenter.num_classes))]
        if self.confidence:
            outputs.append((logits.softmax(dim=1).amax(dim=1) * 255).round().to(torch.uint8))
        if self.logits:
            outputs.append(logits)
        return tuple(outputs)

    def full_size_logits(self, images: Tensor) -> Tensor:
        """``[B,H,W,3]`` uint8 RGB to ``[B,C,H,W]`` float32."""
        size = (images.shape[1], images.shape[2])
        scaled = scale_images(images.permute(0, 3, 1, 2).float(), self.input_scale)
        if self.input_scale == 1.0:
            return self.segmenter(scaled)  # type: ignore[no-any-return]
        output = self.segmenter.forward_features(scaled)
        if output.padded_size != output.image_size:
            return resize_logits(output.full_size_logits(), size, size)
        return resize_logits(output.logits, size, size)


def scale_images(images: Tensor, scale: float) -> Tensor:
    """``[B,3,H,W]`` float images at `scale`, sides rounded down but at least 1; training reads images the same way."""
    if scale == 1.0:
        return images
    # Integer arithmetic: a product with a float would freeze the exported graph to the size it was traced at.
    ratio = scale_ratio(scale)
    sides = [torch.sym_max(side * ratio.numerator // ratio.denominator, 1) for side in images.shape[-2:]]
    size = cast(list[int], sides)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False)


def class_map_dtype(num_classes: int) -> torch.dtype:
    """uint8 up to 256 classes, int32 above."""
    return torch.uint8 if num_classes <= 256 else torch.int32
