"""How frequent classes are among the pixels that something learns from, or in what a network predicts."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods.statistics import StepStatistics

_RAREST = 1e-5
"""No class counts as rarer than this share of the pixels."""


class ClassFrequencies(StepStatistics):
    """Running average of how frequent classes are, the same in all processes.

    A step without any pixel, where no pseudo-label is trusted, say, leaves the average as it is.

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
        """Count ``[B,H,W]`` int64 labels where a bool mask says so: for `shares` and the next `commit`."""
        classes = len(self.frequencies)
        known = counted.flatten().to(self.frequencies.dtype)
        self.add(torch.zeros_like(self.frequencies).index_add_(0, labels.flatten().clamp(max=classes - 1), known))

    @torch.no_grad()
    def add(self, totals: Tensor) -> None:
        """Like `collect`, of ``[C]`` pixels or sums of probabilities that have been counted already."""
        totals = sum_over_processes(totals)
        self._collected = totals if self._collected is None else self._collected + totals

    def shares(self) -> Tensor:
        """``[C]``, an average that includes what has been collected in this step."""
        if self._collected is None:
            return self.frequencies
        momentum = torch.clamp(self.updates / (self.updates + 1), max=self.momentum)
        average = self.frequencies.lerp(F.normalize(self._collected, p=1, dim=0), 1 - momentum)
        return torch.where(self._collected.any(), average, self.frequencies)

    def logarithms(self) -> Tensor:
        """``[C]``, of the `shares`."""
        return self.shares().clamp(min=_RAREST).log()

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if self._collected is None:
            return
        average = self.shares()
        self.updates += taken & self._collected.any()
        self._collected = None
        self.frequencies.copy_(torch.where(taken, average, self.frequencies))
