"""Losses and labels at the size of the images, without ever holding the logits of a batch at that size.

Upsampling logits and passing them to a cross-entropy keeps several ``[B,C,H,W]`` tensors alive until the backward pass:
the logits, their log-softmax, and the gradient of either. Here logits are upsampled a few images at a time, reduced to
what a loss or a label needs, and overwritten. The gradient of a cross-entropy is known as soon as its value is, so it
is taken in the same pass and carried back to the decoder's stride; that small map is all that waits for the backward
pass. Values and gradients are those of the plain way up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from protoseg_deploy.methods.cutmix import CutMix
from protoseg_deploy.methods.enlarging import Size, enlarge, shrink
from protoseg_deploy.methods.single_precision import at_least_single
from protoseg_deploy.models import SegmenterOutput

_Reduced = TypeVar("_Reduced")

VALUES_AT_ONCE = {"cpu": 2**18, "cuda": 2**26}
"""How many upsampled logits there are at a time: what stays in a core's cache, and what keeps a GPU busy (256 MiB). One
image is the least; on a CPU as many as there are threads, because upsampling gives each thread an image."""


@dataclass(frozen=True)
class FullSizeLogits:
    """``[B,C,H,W]`` logits that are never materialised: upsampled piece by piece where they are needed."""

    coarse: Tensor
    """``[B,C,h,w]``, at the decoder's stride."""
    padded_size: Size
    """Height and width they cover."""
    image_size: Size
    """H and W, what of it is image; padding lies at the right and at the bottom."""

    @classmethod
    def of(cls, output: SegmenterOutput) -> "FullSizeLogits":
        """Of the linear head."""
        return cls(output.logits, output.padded_size, output.image_size)

    def shifted(self, offsets: Tensor) -> "FullSizeLogits":
        """With ``[C]`` offsets added to the logits of all pixels; upsampling keeps constants as they are."""
        return replace(self, coarse=self.coarse + offsets.view(1, -1, 1, 1))

    def cross_entropy(self, labels: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the cross-entropies of all pixels, a scalar with gradients for the logits.

        Args:
            labels: ``[B,H,W]`` int64 in 0..C-1, also where the weight is 0.
            weights: ``[B,H,W]`` of any type; no gradient flows into them.
        """
        coarse = self._coarse()
        total: Tensor = _CrossEntropy.apply(coarse, labels, weights.to(coarse.dtype), self.padded_size, self.image_size)
        return total

    def divergence(self, target: "FullSizeLogits", weights: Tensor, cutmix: CutMix | None = None) -> Tensor:
        """The weighted sum of ``KL(softmax(target) ‖ softmax(self))`` of all pixels; no gradient flows into `target`.

        Args:
            target: of the same images.
            weights: as in `cross_entropy`.
            cutmix: how the images have been mixed since: inside boxes the target is that of the partner.
        """
        coarse = self._coarse()
        sizes = self.padded_size, self.image_size
        boxes = None if cutmix is None else cutmix.boxes
        total: Tensor = _Divergence.apply(coarse, target._coarse(), weights.to(coarse.dtype), boxes, *sizes)
        return total

    @torch.no_grad()
    def pixel_losses(self, labels: Tensor) -> Tensor:
        """``[B,H,W]`` cross-entropies without a graph, to choose pixels by; labels as in `cross_entropy`."""

        def losses(part: slice, full: Tensor) -> Tensor:
            true = full.sub_(full.amax(dim=1, keepdim=True)).gather(1, labels[part, None]).squeeze(1)
            return full.exp_().sum(dim=1).log_().sub_(true)

        return torch.cat(self._each(losses))

    @torch.no_grad()
    def winners(self) -> tuple[Tensor, Tensor]:
        """``[B,H,W]`` int64 classes with the highest logit, the first of equal ones, and their probabilities."""
        classes = self.coarse.shape[1]
        # One pass for the largest value and one for the first class that has it: on a CPU `max`, which finds both at
        # once, takes four times as long.
        countdown = torch.arange(classes, 0, -1, device=self.coarse.device).view(1, -1, 1, 1)

        def winners(_: slice, full: Tensor) -> tuple[Tensor, Tensor]:
            full.sub_(full.amax(dim=1, keepdim=True))
            confidence = full.exp().sum(dim=1).reciprocal_()
            labels = classes - full.eq_(0).mul_(countdown).amax(dim=1).long()
            return labels.clamp_(max=classes - 1), confidence  # not a number: no class is the largest

        labels, confidence = zip(*self._each(winners), strict=True)
        return torch.cat(labels), torch.cat(confidence)

    @torch.no_grad()
    def entropies(self) -> Tensor:
        """``[B,H,W]`` entropies of the softmax, in nats."""

        def entropies(_: slice, full: Tensor) -> Tensor:
            full.sub_(full.amax(dim=1, keepdim=True))
            exponentials = full.exp()
            total = exponentials.sum(dim=1)
            return total.log() - exponentials.mul_(full).sum(dim=1) / total

        return torch.cat(self._each(entropies))

    @torch.no_grad()
    def class_totals(self, weights: Tensor) -> Tensor:
        """``[C]`` sums of probabilities over all pixels, weighted by ``[B,H,W]``.

        An estimate from the decoder's stride, where one place stands for the pixels it covers: for a running average
        over batches that is as good, and takes a tenth of the time.
        """
        coarse = self._coarse()
        (height, width), (padded_height, padded_width) = self.image_size, self.padded_size
        padded = F.pad(weights.to(coarse.dtype), (0, padded_width - width, 0, padded_height - height))
        rows, columns = coarse.shape[-2:]
        covered = F.adaptive_avg_pool2d(padded[:, None], (rows, columns))
        pixels_each = padded_height * padded_width / (rows * columns)
        return (coarse.softmax(dim=1) * covered).sum(dim=(0, 2, 3)) * pixels_each

    def _coarse(self) -> Tensor:
        """Channels last, for which upsampling is several times as fast on a CPU, back and forth."""
        return at_least_single(self.coarse).contiguous(memory_format=torch.channels_last)

    def _each(self, reduce: Callable[[slice, Tensor], _Reduced]) -> list[_Reduced]:
        return each_piece(self._coarse(), self.padded_size, self.image_size, reduce)


class _CrossEntropy(torch.autograd.Function):
    """See `FullSizeLogits.cross_entropy`."""

    @staticmethod
    def forward(
        ctx: Any, coarse: Tensor, labels: Tensor, weights: Tensor, padded_size: Size, image_size: Size
    ) -> Tensor:
        gradient = torch.empty_like(coarse)

        def loss(part: slice, full: Tensor) -> Tensor:
            label, weight = labels[part, None], weights[part, None]
            true = full.sub_(full.amax(dim=1, keepdim=True)).gather(1, label)
            normaliser = full.exp_().sum(dim=1, keepdim=True)
            full.mul_(weight / normaliser).scatter_add_(1, label, -weight)  # weight · (softmax - one-hot)
            gradient[part] = shrink(full, padded_size, (coarse.shape[-2], coarse.shape[-1]))
            return ((normaliser.log() - true) * weight).sum()

        total = torch.stack(each_piece(coarse, padded_size, image_size, loss)).sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_of_total: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradient_of_total, None, None, None, None


class _Divergence(torch.autograd.Function):
    """See `FullSizeLogits.divergence`; the gradient is kept in the same way."""

    @staticmethod
    def forward(
        ctx: Any,
        coarse: Tensor,
        target: Tensor,
        weights: Tensor,
        boxes: Tensor | None,
        padded_size: Size,
        image_size: Size,
    ) -> Tensor:
        gradient = torch.empty_like(coarse)
        partners = None if boxes is None else CutMix.partners(target)

        def loss(part: slice, full: Tensor) -> Tensor:
            weight = weights[part, None]
            wanted = enlarge(target[part], padded_size, image_size)
            if boxes is not None and partners is not None:
                wanted = torch.where(boxes[part, None], enlarge(partners[part], padded_size, image_size), wanted)
            wanted = _to_log_softmax(wanted)
            probabilities = wanted.exp()
            value = (wanted.sub_(_to_log_softmax(full)).mul_(probabilities) * weight).sum()
            full.exp_().sub_(probabilities).mul_(weight)
            gradient[part] = shrink(full, padded_size, (coarse.shape[-2], coarse.shape[-1]))
            return value

        total = torch.stack(each_piece(coarse, padded_size, image_size, loss)).sum()
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_of_total: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradient_of_total, None, None, None, None, None


def each_piece(
    coarse: Tensor, padded_size: Size, image_size: Size, reduce: Callable[[slice, Tensor], _Reduced]
) -> list[_Reduced]:
    """What `reduce` makes of some images at a time: of which, and of their logits, which it may overwrite.

    Nobody but `reduce` holds the upsampled logits, so that they are gone before the next ones are made.
    """
    batch, classes = coarse.shape[:2]
    at_once = VALUES_AT_ONCE[coarse.device.type] // (classes * padded_size[0] * padded_size[1])
    step = max(at_once, torch.get_num_threads() if coarse.device.type == "cpu" else 1)
    parts = [slice(first, first + step) for first in range(0, batch, step)]
    return [reduce(part, enlarge(coarse[part], padded_size, image_size)) for part in parts]


def _to_log_softmax(full: Tensor) -> Tensor:
    """Over classes, in place."""
    full.sub_(full.amax(dim=1, keepdim=True))
    return full.sub_(full.exp().sum(dim=1, keepdim=True).log_())
