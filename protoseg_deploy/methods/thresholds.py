"""A confidence threshold for each class, so that classes a teacher is less confident about are learned from as well."""

import torch
from torch import Tensor

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods.statistics import StepStatistics
from protoseg_deploy.methods.terms import PseudoLabels

_FORGOTTEN = 1e-3
"""Pixels left of a class after discounting, about 1,500 steps without one, below which nothing is known of it."""


class AdaptiveThresholds(StepStatistics):
    """Scales a threshold by how confident the teacher is about each class.

    ``τ_c = τ · m_c / max m``, the form of FlexMatch (Zhang et al., NeurIPS 2021), where `m_c` is the mean confidence of
    the pixels predicted as class c, over the latest steps. FlexMatch counts the confident predictions of a class
    instead, and FreeMatch (Wang et al., ICLR 2023) averages its probability over all samples. Both presume that classes
    are equally frequent; of pixels they would measure how large a class is, and hardly anything would be asked of small
    ones. `τ` stays that of the recipe, so that this can be compared with a single threshold.

    The thresholds of a step depend on the steps before alone, so that all parts of an accumulated step are filtered
    alike. A class that has not been predicted lately has the threshold `τ`.

    Args:
        num_classes: C.
        momentum: the weight of a step's pixels falls by this factor at each further step.
    """

    totals: Tensor
    """``[2,C]`` float64: discounted sums of confidence, and of pixels. Adding one by one to a million in single
    precision would round every confidence to a sixteenth."""

    def __init__(self, num_classes: int, momentum: float = 0.99) -> None:
        super().__init__()
        self._collected: Tensor | None = None
        self.momentum = momentum
        self.register_buffer("totals", torch.zeros(2, num_classes, dtype=torch.float64))

    def of_classes(self, threshold: float) -> Tensor:
        """``[C]`` float32 thresholds; the class with the highest confidence has `threshold`."""
        confidence, pixels = self.totals
        known = pixels > _FORGOTTEN
        means = torch.where(known, confidence / pixels.clamp(min=_FORGOTTEN), 0.0)
        largest = means.amax()
        return threshold * torch.where(known, means / largest, 1.0).float()

    @torch.no_grad()
    def collect(self, pseudo: PseudoLabels) -> None:
        """Add the valid pixels of a pass to what the next `commit` takes over."""
        # Where fp16 logits overflow a confidence is not a number; a single one would stay in the sums for good.
        counted = pseudo.valid & pseudo.confidence.isfinite()
        confidence = torch.where(counted, pseudo.confidence, 0.0)
        values = torch.stack([confidence, counted]).to(self.totals.dtype)
        sums = torch.zeros_like(self.totals).index_add_(1, pseudo.labels.flatten(), values.flatten(1))
        self._collected = sums if self._collected is None else self._collected + sums

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if self._collected is None:
            return
        totals = self.momentum * self.totals + sum_over_processes(self._collected)
        self._collected = None
        self.totals.copy_(torch.where(taken, totals, self.totals))
