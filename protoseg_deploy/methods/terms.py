"""The terms methods are composed of: tensors in, tensors out, no host sync."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.data.views import CutMix
from protoseg_deploy.recipe import Ohem


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

    def mixed(self, cutmix: CutMix) -> "PseudoLabels":
        return PseudoLabels(cutmix(self.labels), cutmix(self.confidence), cutmix(self.trusted), cutmix(self.valid))


def confident_labels(logits: Tensor, valid: Tensor, threshold: float) -> PseudoLabels:
    """Pseudo-labels that count where the winning class has at least `threshold` (Sohn et al., NeurIPS 2020).

    Args:
        logits: ``[B,C,H,W]`` float32 of the teacher.
        valid: ``[B,H,W]`` bool.
        threshold: smallest confidence that counts.
    """
    confidence, labels = logits.softmax(dim=1).max(dim=1)
    return PseudoLabels(labels, confidence, valid & (confidence >= threshold), valid)


def low_entropy_labels(logits: Tensor, valid: Tensor, drop_share: float) -> PseudoLabels:
    """Pseudo-labels without the `drop_share` most uncertain pixels of the batch (Wang et al., CVPR 2022).

    The entropy at which to cut is estimated on at most 65,536 evenly spaced pixels.
    """
    probabilities = logits.softmax(dim=1)
    confidence, labels = probabilities.max(dim=1)
    entropy = -(probabilities * probabilities.clamp(min=1e-12).log()).sum(dim=1)
    known = torch.where(valid, entropy, torch.nan).flatten()
    cut = torch.nanquantile(known[:: -(-known.numel() // 65_536)], 1.0 - drop_share)
    return PseudoLabels(labels, confidence, valid & (entropy <= cut), valid)


def labeled_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int, ohem: Ohem | None = None) -> Tensor:
    """Mean cross-entropy over labelled pixels, or over the hard ones only.

    Args:
        logits: ``[B,C,H,W]``.
        labels: ``[B,H,W]`` int64.
        ignore_index: label that does not count.
        ohem: average over pixels whose true class has less than `threshold` probability, at least `min_kept`
            (Shrivastava et al., CVPR 2016, as used for segmentation).
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=ignore_index, reduction="none")
    known = labels != ignore_index
    if ohem is None:
        return losses.sum() / known.sum().clamp(min=1)
    # A pixel is hard when its loss is above -log(threshold); the bound is lowered until min_kept pixels pass.
    bound = -math.log(max(ohem.threshold, 1e-12))
    kept = min(ohem.min_kept, losses.numel())
    kth_largest = torch.where(known, losses, -1.0).flatten().detach().topk(kept).values[-1]
    hard = known & (losses.detach() >= kth_largest.clamp(max=bound))
    return (losses * hard).sum() / hard.sum().clamp(min=1)


def consistency(logits: Tensor, pseudo: PseudoLabels) -> Tensor:
    """Cross-entropy to trusted pseudo-labels, averaged over *valid* pixels.

    An image with few trusted pixels therefore weighs little.
    """
    losses = F.cross_entropy(logits.float(), pseudo.labels, reduction="none")
    return (losses * pseudo.trusted).sum() / pseudo.valid.sum().clamp(min=1)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Scalar: how much of `whole` is in `part`, both bool."""
    return part.sum() / whole.sum().clamp(min=1)
