"""Distribution alignment: pseudo-labels that keep rare classes as frequent as the labelled images have them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DistributionAlignment(nn.Module):
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
        self.momentum = momentum
        self.largest_ratio = largest_ratio
        self.register_buffer("labeled", torch.zeros(num_classes))
        self.register_buffer("predicted", torch.zeros(num_classes))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def forward(self, logits: Tensor, valid: Tensor, labels: Tensor, ignore_index: int) -> Tensor:
        """Aligned logits; moves both averages.

        Args:
            logits: ``[B,C,H,W]`` float32 of the teacher on weak views.
            valid: ``[B,H,W]`` bool, false outside the images.
            labels: ``[Bl,h,w]`` int64 of the labelled views of the same step.
            ignore_index: label that does not count.

        Returns:
            ``[B,C,H,W]`` logits whose softmax is p'.
        """
        classes = logits.shape[1]
        known = (labels != ignore_index).flatten()
        counts = torch.zeros_like(self.labeled).index_add_(
            0, labels.flatten().clamp(max=classes - 1), known.to(self.labeled.dtype)
        )
        weights = valid[:, None].to(logits.dtype)
        totals = (logits.softmax(dim=1) * weights).sum(dim=(0, 2, 3))
        momentum = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
        self.labeled.lerp_(F.normalize(counts, p=1, dim=0), 1 - momentum)
        self.predicted.lerp_(F.normalize(totals, p=1, dim=0), 1 - momentum)
        self.updates += 1
        ratio = (self.labeled.clamp(min=1e-6) / self.predicted.clamp(min=1e-6)).clamp(
            1 / self.largest_ratio, self.largest_ratio
        )
        return logits + ratio.log().view(1, classes, 1, 1)
