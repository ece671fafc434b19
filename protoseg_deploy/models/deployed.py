"""The deployed network: uint8 images in, uint8 class maps out, everything between inside one module."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.models.segmenter import Segmenter
from protoseg_deploy.recipe import scale_ratio


class DeployedSegmenter(nn.Module):
    """Input scaling, normalisation, network, upsampling, argmax and cast as one module.

    The PyTorch runtime runs it and the exporter traces it, so that both compute the same function. At full resolution
    the logits are the largest tensor of all, and on a CPU their upsampling and argmax cost more than any layer. They
    are kept as *logit rows* ``[B,H,C,W]``: all classes of an image row lie together, see `upsample_rows`.

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
        rows = self.logit_rows(images)
        outputs = [rows.argmax(dim=2).to(class_map_dtype(self.segmenter.num_classes))]
        if self.confidence:
            outputs.append((rows.softmax(dim=2).amax(dim=2) * 255).round().to(torch.uint8))
        if self.logits:
            outputs.append(rows.permute(0, 2, 1, 3))
        return tuple(outputs)

    def full_size_logits(self, images: Tensor) -> Tensor:
        """``[B,H,W,3]`` uint8 RGB to ``[B,C,H,W]`` float32."""
        return self.logit_rows(images).permute(0, 2, 1, 3)

    def logit_rows(self, images: Tensor) -> Tensor:
        """``[B,H,W,3]`` uint8 RGB to ``[B,H,C,W]`` float32."""
        height, width = images.shape[1], images.shape[2]
        # Float first: TensorRT moves no uint8.
        pixels = images.float().permute(0, 3, 1, 2)
        output = self.segmenter.forward_features(scale_images(pixels, self.input_scale))
        if self.input_scale == 1.0:
            rows = upsample_rows(output.logits, output.padded_size)
            return rows[:, :height, :, :width] if output.padded_size != (height, width) else rows
        padded = output.padded_size != output.image_size
        return upsample_rows(output.full_size_logits() if padded else output.logits, (height, width))


def upsample_rows(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """``[B,C,h,w]`` to ``[B,H,C,W]``, `size` being ``(H, W)``: bilinear with half-pixel centres, in float32.

    Bilinear interpolation is separable: first along the width while the map is small, then along the height. The second
    step blends whole rows of ``C*W`` neighbouring numbers, which any processor does at the speed of its memory.
    """
    batch, classes, height, _ = logits.shape
    columns = F.interpolate(
        logits.float().permute(0, 2, 1, 3), size=(classes, size[1]), mode="bilinear", align_corners=False
    )
    # As one pixel wide images of C*W channels: a bilinear interpolation of the rows alone.
    lines = columns.reshape(batch, height, 1, classes * size[1]).permute(0, 3, 1, 2)
    rows = F.interpolate(lines, size=(size[0], 1), mode="bilinear", align_corners=False)
    return rows.permute(0, 2, 3, 1).reshape(batch, size[0], classes, size[1])


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
