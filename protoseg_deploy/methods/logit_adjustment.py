"""Logit adjustment: a network that does not prefer classes for being frequent."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.statistics import StepStatistics

_RAREST = 1e-5
"""No class counts as rarer than this share of the pixels."""


class LogitAdjustment(StepStatistics):
    """Adds ``τ log π_c`` to the logits that the cross-entropies of labels and pseudo-labels see, and to no others.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021. A cross-entropy teaches how probable a class is,
    its frequency `π` included, so that thin and rare classes seldom win a pixel. With the frequency supplied from
    outside the network need not learn it: at τ = 1 what it predicts is meant for classes of equal frequency, which mean
    IoU comes closer to than pixel accuracy does; τ between 0 and 1 is between the two. Frequencies are running averages
    over labelled crops, as they are drawn.

    Args:
        num_classes: C.
        strength: τ.
        momentum: share of itself the running average keeps at each step.
    """

    frequencies: Tensor
    """``[C]`` float32 shares of the labelled pixels."""
    updates: Tensor

    def __init__(self, num_classes: int, strength: float, momentum: float = 0.99) -> None:
        super().__init__()
        self._collected: Tensor | None = None
        self.strength = strength
        self.momentum = momentum
        self.register_buffer("frequencies", torch.zeros(num_classes))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def collect(self, labels: Tensor, ignore_index: int) -> None:
        """Count ``[B,H,W]`` int64 labels for this step's adjustment and what the next `commit` takes over."""
        classes = len(self.frequencies)
        known = (labels != ignore_index).flatten().to(self.frequencies.dtype)
        counts = torch.zeros_like(self.frequencies).index_add_(0, labels.flatten().clamp(max=classes - 1), known)
        counts = sum_over_processes(counts)
        self._collected = counts if self._collected is None else self._collected + counts

    def forward(self, logits: FullSizeLogits) -> FullSizeLogits:
        """Adjusted logits, by an average that includes what has been collected in this step."""
        return logits.shifted(self.strength * self._average().clamp(min=_RAREST).log())

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if self._collected is None:
            return
        average = self._average()
        self._collected = None
        self.frequencies.copy_(torch.where(taken, average, self.frequencies))
        self.updates += taken

    def _average(self) -> Tensor:
        assert self._collected is not None
        momentum = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
        return self.frequencies.lerp(F.normalize(self._collected, p=1, dim=0), 1 - momentum)
