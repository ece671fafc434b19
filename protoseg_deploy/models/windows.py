"""An image in overlapping windows whose logits are averaged: how networks trained on crops are often evaluated.

Windows, unlike the tiles of a runtime, are seen by the network alone: where they overlap, their logits are averaged
before a class is chosen. Only what holds the logits on its device can do that, which is PyTorch here.
"""

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.deployed import class_map_dtype, scale_images, upsample_rows
from protoseg_deploy.models.segmenter import Segmenter
from protoseg_deploy.recipe import Train


@dataclass(frozen=True)
class Windows:
    """Square windows that cover an image.

    Raises:
        UsageError: the stride leaves gaps, or a number is below 1.
    """

    side: int
    """Of a window, in pixels at the input scale."""
    stride: int
    """From a window to the next one, down and to the right; the last one ends at the border of the image."""
    batch: int = 1
    """Windows per forward pass: some to fill a GPU; on a CPU 1 is fastest, or as fast as any."""

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.side:
            raise UsageError(
                f"windows of {self.side} pixels cannot start every {self.stride} pixels",
                f"The stride lies between 1 and the window's side; {default_stride(self.side)} is usual.",
            )
        if self.batch < 1:
            raise UsageError(f"{self.batch} windows per forward pass: there is at least 1")

    @classmethod
    def of_recipe(cls, train: Train) -> "Windows | None":
        """Those of ``train.eval_window``; None where a recipe evaluates whole images."""
        if train.eval_window is None:
            return None
        return cls(train.eval_window, train.eval_stride or default_stride(train.eval_window), train.eval_batch)

    def starts(self, length: int) -> list[int]:
        """Where windows begin along a side of `length` pixels; a shorter side than a window's has one, at 0."""
        last = max(0, length - self.side)
        return [*range(0, last, self.stride), last]


def default_stride(side: int) -> int:
    """Two thirds of a window, rounded: 513 of the 769 pixels that are usual on Cityscapes."""
    return round(2 * side / 3)


class WindowedSegmenter(nn.Module):
    """What `DeployedSegmenter` computes, in windows.

    Everything stays on the device of the network, and the largest tensor there is the sum of the logits of one image;
    besides it one window's logits exist at full size at a time. They are *logit rows* ``[H,C,W]``, as in
    `DeployedSegmenter`.

    Args:
        segmenter: the network, in eval mode.
        input_scale: the scale at which the network sees images; windows are cut after it, and averaged logits are
            upsampled to the size of the input.
        windows: how images are cut.
    """

    def __init__(self, segmenter: Segmenter, input_scale: float, windows: Windows) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.input_scale = input_scale
        self.windows = windows

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """``[B,H,W,3]`` uint8 RGB to ``([B,H,W] class indices,)``, one image after the other."""
        dtype = class_map_dtype(self.segmenter.num_classes)
        return (torch.stack([self.logit_rows(image).argmax(dim=1).to(dtype) for image in images]),)

    def logit_rows(self, image: Tensor) -> Tensor:
        """``[H,W,3]`` uint8 RGB to ``[H,C,W]`` float32, each pixel the mean over the windows that hold it."""
        scaled = scale_images(image.float().permute(2, 0, 1)[None], self.input_scale)
        rows = self._mean_over_windows(scaled[0].permute(1, 2, 0))
        if self.input_scale == 1.0:
            return rows
        return upsample_rows(rows.permute(1, 0, 2)[None], (image.shape[0], image.shape[1]))[0]

    def _mean_over_windows(self, image: Tensor) -> Tensor:
        """``[h,w,3]`` float RGB in 0..255 to ``[h,C,w]``."""
        side, batch = self.windows.side, self.windows.batch
        height, width = image.shape[:2]
        padded = self._pad(image)
        rows, columns = self.windows.starts(height), self.windows.starts(width)
        places = list(product(rows, columns))
        total = image.new_zeros(padded.shape[0], self.segmenter.num_classes, padded.shape[1])
        for first in range(0, len(places), batch):
            group = places[first : first + batch]
            windows = torch.stack([padded[top : top + side, left : left + side] for top, left in group])
            output = self.segmenter.forward_features(windows.permute(0, 3, 1, 2))
            for (top, left), logits in zip(group, output.logits, strict=True):
                full = upsample_rows(logits[None], output.padded_size)[0]
                total[top : top + side, :, left : left + side] += full[:side, :, :side]
        total /= self._seen(rows, total[:, 0, 0])[:, None, None] * self._seen(columns, total[0, 0])
        return total[:height, :, :width]

    def _pad(self, image: Tensor) -> Tensor:
        """At least as large as a window: below and to the right, as in training, with the mean colour."""
        height, width = (max(side, self.windows.side) for side in image.shape[:2])
        if image.shape[:2] == (height, width):
            return image
        padded = self.segmenter.mean.view(3).repeat(height, width, 1)
        padded[: image.shape[0], : image.shape[1]] = image
        return padded

    def _seen(self, starts: list[int], like: Tensor) -> Tensor:
        """How many windows hold each pixel of a side; the image has the product of its two sides."""
        seen = torch.zeros_like(like)
        for start in starts:
            seen[start : start + self.windows.side] += 1
        return seen
