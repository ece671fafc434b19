"""A confidence threshold that follows the confidence of the network."""

import torch
from torch import Tensor

from protoseg_deploy.distributed import gather_over_processes
from protoseg_deploy.methods.statistics import StepStatistics
from protoseg_deploy.methods.terms import PseudoLabels


class DynamicThreshold(StepStatistics):
    """``τ ← 0.999 τ + 0.001 · mean over the classes that are there of their largest confidence``.

    Sun et al., CorrMatch, CVPR 2024: a low start lets many pixels take part early. The largest confidence of a class is
    looked for in all images of a step, of all processes. The threshold of a step depends on the steps before alone, so
    that all parts of an accumulated step are filtered alike.

    Args:
        num_classes: C.
        start: τ at first.
        momentum: share of itself τ keeps at each step.
    """

    value: Tensor
    """Scalar float32."""

    def __init__(self, num_classes: int, start: float, momentum: float = 0.999) -> None:
        super().__init__()
        self._collected: Tensor | None = None
        self.num_classes = num_classes
        self.momentum = momentum
        self.register_buffer("value", torch.tensor(start))

    @torch.no_grad()
    def collect(self, pseudo: PseudoLabels) -> None:
        """Look at the valid pixels of a pass for what the next `commit` takes over."""
        counted = pseudo.valid & pseudo.confidence.isfinite()
        confidence = torch.where(counted, pseudo.confidence, 0.0).flatten(1)
        largest = confidence.new_zeros(len(confidence), self.num_classes)
        largest = largest.scatter_reduce(1, pseudo.labels.flatten(1), confidence, "amax").amax(dim=0)
        self._collected = largest if self._collected is None else torch.maximum(self._collected, largest)

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if self._collected is None:
            return
        largest = gather_over_processes(self._collected[None]).amax(dim=0)
        self._collected = None
        there = (largest > 0).sum()
        moved = self.value.lerp(largest.sum() / there.clamp(min=1), 1.0 - self.momentum)
        self.value.copy_(torch.where(taken & (there > 0), moved, self.value))
