"""Logit adjustment: a network that does not prefer classes for being frequent."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.statistics import StepStatistics

_RAREST = 1e-5
"""No class counts as rarer than this share of the pixels."""


class ClassFrequencies(StepStatistics):
    """Running average of how frequent classes are among the pixels that a loss learns from.

    A step without any such pixel, where no pseudo-label is trusted, leaves the average as it is.

    Args:
        num_classes: C.
        momentum: share of itself the average keeps at each step.
    """

    frequencies: Tensor
    """``[C]`` float32 shares of the pixels."""
    updates: Tensor

    def __init__(self, num_classes: int, momentum: float = 0.99) -> None:
        super().__init__()
        self._collected: Tensor | None = None
        self.momentum = momentum
        self.register_buffer("frequencies", torch.zeros(num_classes))
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def collect(self, labels: Tensor, counted: Tensor) -> None:
        """Count ``[B,H,W]`` int64 labels where a bool mask says so: for `logarithms` and the next `commit`."""
        classes = len(self.frequencies)
        known = counted.flatten().to(self.frequencies.dtype)
        counts = torch.zeros_like(self.frequencies).index_add_(0, labels.flatten().clamp(max=classes - 1), known)
        counts = sum_over_processes(counts)
        self._collected = counts if self._collected is None else self._collected + counts

    def logarithms(self) -> Tensor:
        """``[C]``, of an average that includes what has been collected in this step."""
        return self._average().clamp(min=_RAREST).log()

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if self._collected is None:
            return
        average = self._average()
        self.updates += taken & self._collected.any()
        self._collected = None
        self.frequencies.copy_(torch.where(taken, average, self.frequencies))

    def _average(self) -> Tensor:
        if self._collected is None:
            return self.frequencies
        momentum = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
        average = self.frequencies.lerp(F.normalize(self._collected, p=1, dim=0), 1 - momentum)
        return torch.where(self._collected.any(), average, self.frequencies)


class LogitAdjustment(nn.Module):
    """Adds to logits what their cross-entropy teaches about the frequency of classes, so that they need not learn it.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021. A cross-entropy teaches how probable a class is,
    its frequency `π` included, so that thin and rare classes seldom win a pixel. With ``τ log π`` supplied from
    outside, a network learns ``log p(pixel | class) + (1 - τ) log π``: at τ = 1 what it predicts is meant for classes
    of equal frequency, which mean IoU comes closer to than pixel accuracy does; τ between 0 and 1 is between the two.

    Pseudo-labels have frequencies `ρ` of their own: of another set of images, and without crops drawn for rare
    classes. Their loss would teach ``log p(pixel | class) + log ρ``; ``log ρ - (1 - τ) log π`` is what makes both
    losses agree. All frequencies are running averages over what the losses learn from.

    Args:
        num_classes: C.
        strength: τ.
    """

    def __init__(self, num_classes: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.labels = ClassFrequencies(num_classes)
        self.pseudo_labels = ClassFrequencies(num_classes)

    def for_labels(self, logits: FullSizeLogits) -> FullSizeLogits:
        """What a loss on labels sees."""
        return logits.shifted(self.strength * self.labels.logarithms())

    def for_pseudo_labels(self, logits: FullSizeLogits) -> FullSizeLogits:
        """What a loss on pseudo-labels sees."""
        return logits.shifted(self.pseudo_labels.logarithms() - (1.0 - self.strength) * self.labels.logarithms())
