"""The terms methods are composed of: tensors in, tensors out, no host sync."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from protoseg_deploy.distributed import gather_over_processes, mean_over
from protoseg_deploy.methods.cutmix import CutMix
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.recipe import Ohem


@dataclass(frozen=True)
class SoftLabels:
    """The class probabilities behind pseudo-labels, for views that may be mixed."""

    logits: FullSizeLogits
    """Of the weak views, no gradient flows into them."""
    cutmix: CutMix | None = None
    """How the views they are compared with have been mixed."""

    def divergence(self, student: FullSizeLogits, weights: Tensor) -> Tensor:
        """The weighted sum of ``KL(these ‖ student)`` of all pixels; inside boxes these are the partner's.

        Args:
            student: of the same views, mixed.
            weights: ``[B,H,W]`` bool, mixed like the views.
        """
        return student.divergence(self.logits, weights, self.cutmix)


@dataclass(frozen=True)
class PseudoLabels:
    """What a teacher says of the weak views."""

    labels: Tensor
    """``[B,H,W]`` int64, the winning class."""
    confidence: Tensor
    """``[B,H,W]`` float32, its probability."""
    trusted: Tensor
    """``[B,H,W]`` bool: inside the image and past the filter."""
    valid: Tensor
    """``[B,H,W]`` bool: inside the image."""
    soft: SoftLabels | None = None
    """Where views learn from probabilities in place of the winning class."""

    def mixed(self, cutmix: CutMix) -> "PseudoLabels":
        soft = None if self.soft is None else replace(self.soft, cutmix=cutmix)
        return PseudoLabels(
            cutmix(self.labels), cutmix(self.confidence), cutmix(self.trusted), cutmix(self.valid), soft
        )


def confident_labels(logits: FullSizeLogits, valid: Tensor, threshold: float | Tensor) -> PseudoLabels:
    """Pseudo-labels that count where the winning class has at least `threshold` (Sohn et al., NeurIPS 2020).

    Args:
        logits: of the teacher.
        valid: ``[B,H,W]`` bool.
        threshold: smallest confidence that counts, of all classes or ``[C]`` of each.
    """
    labels, confidence = logits.winners()
    smallest = threshold[labels] if isinstance(threshold, Tensor) else threshold
    return PseudoLabels(labels, confidence, valid & (confidence >= smallest), valid)


def low_entropy_labels(logits: FullSizeLogits, valid: Tensor, drop_share: float) -> PseudoLabels:
    """Pseudo-labels without the `drop_share` most uncertain pixels of the batch (Wang et al., CVPR 2022).

    The entropy at which to cut is estimated on at most 65,536 evenly spaced pixels of each process.
    """
    labels, confidence = logits.winners()
    entropy = logits.entropies()
    known = torch.where(valid, entropy, torch.nan).flatten()
    sample = gather_over_processes(known[:: -(-known.numel() // 65_536)])
    cut = torch.nanquantile(sample, 1.0 - drop_share)
    return PseudoLabels(labels, confidence, valid & (entropy <= cut), valid)


def labeled_cross_entropy(
    logits: FullSizeLogits, labels: Tensor, ignore_index: int, ohem: Ohem | None = None, share_of_batch: float = 1.0
) -> Tensor:
    """Mean cross-entropy over labelled pixels, or over the hard ones only.

    Args:
        logits: of the student.
        labels: ``[B,H,W]`` int64.
        ignore_index: label that does not count.
        ohem: average over pixels whose true class has less than `threshold` probability, at least `min_kept`
            (Shrivastava et al., CVPR 2016, as used for segmentation).
        share_of_batch: how much of the global batch these images are, as one process of several or as a part of an
            accumulated step: that much of `min_kept` is kept of their own pixels. A ranking over the whole batch would
            have to gather every loss.
    """
    counted = labels != ignore_index
    safe = torch.where(counted, labels, 0)
    if ohem is not None:
        losses = torch.where(counted, logits.pixel_losses(safe), -1.0)
        kept = min(max(1, round(ohem.min_kept * share_of_batch)), losses.numel())
        # A pixel is hard when its loss is above -log(threshold); the bound is lowered until `kept` pixels pass.
        bound = -math.log(max(ohem.threshold, 1e-12))
        kth_largest = losses.flatten().topk(kept).values[-1]
        counted = counted & (losses >= kth_largest.clamp(max=bound))
    return mean_over(logits.cross_entropy(safe, counted), counted.sum())


def consistency(logits: FullSizeLogits, pseudo: PseudoLabels) -> Tensor:
    """Cross-entropy to trusted pseudo-labels, or divergence from soft ones, averaged over *valid* pixels.

    An image with few trusted pixels therefore weighs little.
    """
    if pseudo.soft is None:
        total = logits.cross_entropy(pseudo.labels, pseudo.trusted)
    else:
        total = pseudo.soft.divergence(logits, pseudo.trusted)
    return mean_over(total, pseudo.valid.sum())


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Scalar: how much of `whole` is in `part`, both bool."""
    return mean_over(part.sum().float(), whole.sum())
