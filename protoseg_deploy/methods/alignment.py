"""Distribution alignment: pseudo-labels that keep rare classes as frequent as the labelled images have them."""

import torch
from torch import Tensor, nn

from protoseg_deploy.methods.class_frequencies import ClassFrequencies
from protoseg_deploy.methods.full_size import FullSizeLogits


class DistributionAlignment(nn.Module):
    """Weighs a teacher's probabilities by how much it over- or underrates each class.

    ``p' ∝ p · q_labelled / q_teacher`` (Berthelot et al., ReMixMatch, ICLR 2020), per pixel; both class distributions
    are running averages over batches and travel in checkpoints. Self-training suppresses rare classes because the
    teacher, uncertain about them, labels their pixels as frequent classes; here a class that is predicted too rarely
    gains probability until it is not.

    Args:
        num_classes: C.
        momentum: share of itself a running average keeps at each step.
        largest_ratio: bound of the correction, either way.
    """

    def __init__(self, num_classes: int, momentum: float = 0.99, largest_ratio: float = 10.0) -> None:
        super().__init__()
        self.largest_ratio = largest_ratio
        self.labeled = ClassFrequencies(num_classes, momentum)
        self.predicted = ClassFrequencies(num_classes, momentum)

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
        self.labeled.collect(labels, labels != ignore_index)
        self.predicted.add(logits.class_totals(valid))
        ratio = self.labeled.shares().clamp(min=1e-6) / self.predicted.shares().clamp(min=1e-6)
        return logits.shifted(ratio.clamp(1 / self.largest_ratio, self.largest_ratio).log())
