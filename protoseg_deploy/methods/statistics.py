"""What a method learns beside gradients: collected in the passes of a step, taken over when the step is."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class StepStatistics(nn.Module, ABC):
    """Running statistics in buffers, hence in checkpoints, the same in every process.

    A step may consist of several passes (gradient accumulation) and may be skipped (a loss that is not finite). What
    its passes collect changes the buffers only when `commit` is called, once a step.
    """

    @abstractmethod
    def commit(self, taken: Tensor) -> None:
        """Take over what was collected since the last call, summed over processes, and forget it.

        Args:
            taken: scalar bool on the device; false only forgets.
        """
