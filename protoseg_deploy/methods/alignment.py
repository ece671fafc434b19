"""Distribution alignment: pseudo-labels that keep rare classes as frequent as the labelled images have them."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.statistics import StepStatistics


class DistributionAlignment(StepStatistics):
    """Weighs a teacher's probabilities by how much it over- or underrates each class.

    ``p' ∝ p · q_labelled / q_teacher`` (Berthelot et al., ReMixMatch, ICLR 2020), per pixel; both class distributions
    are running averages over batches and travel in checkpoints. Self-training starves rare classes because the teacher,
    unsure of them, labels their pixels as something frequent; here a class that is predicted too rarely gains
    probability until it is not.

    Args:
        num_classes: C.
        momentum: share of itself a running average keeps at each step.
        largest_ratio: bound of the correction, either way.
    """

    labeled: Tensor
    predicted: Tensor
    updates: Tensor

    def __init__(self, num_classes: int, momentum: float = 0.99, largest_ratio: float = 10.0) -> None:
        super().__init__()
        self._collected: Tensor | None = None
        self.momentum = momentum
        self.largest_ratio = largest_ratio
        self.register_buffer("labeled", torch.zeros(num_classes))
        self.register_buffer("predicted", torch.zeros(num_classes))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def forward(self, logits: FullSizeLogits, valid: Tensor, labels: Tensor, ignore_index: int) -> FullSizeLogits:
        """Aligned logits, by averages that include what is shown here.

        Args:
            logits: of the teacher on weak views.
            valid: ``[B,H,W]`` bool, false outside the images.
            labels: ``[Bl,h,w]`` int64 of the labelled views of the same step.
            ignore_index: label that does not count.

        Returns:
            Logits whose softmax is p'.
        """
        classes = len(self.labeled)
        known = (labels != ignore_index).flatten()
        counts = torch.zeros_like(self.labeled).index_add_(
            0, labels.flatten().clamp(max=classes - 1), known.to(self.labeled.dtype)
        )
        seen = sum_over_processes(torch.stack([counts, logits.class_totals(valid)]))
        self._collected = seen if self._collected is None else self._collected + seen
        labeled, predicted = self._averages()
        ratio = (labeled.clamp(min=1e-6) / predicted.clamp(min=1e-6)).clamp(1 / self.largest_ratio, self.largest_ratio)
        return logits.shifted(ratio.log())

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if self._collected is None:
            return
        labeled, predicted = self._averages()
        self.labeled.copy_(torch.where(taken, labeled, self.labeled))
        self.predicted.copy_(torch.where(taken, predicted, self.predicted))
        self.updates += taken
        self._collected = None

    def _averages(self) -> tuple[Tensor, Tensor]:
        """Both running averages with what this step has shown so far."""
        assert self._collected is not None
        counts, totals = self._collected
        momentum = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
        return (
            self.labeled.lerp(F.normalize(counts, p=1, dim=0), 1 - momentum),
            self.predicted.lerp(F.normalize(totals, p=1, dim=0), 1 - momentum),
        )
