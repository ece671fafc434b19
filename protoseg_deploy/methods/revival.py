"""Prototypes that no pixel goes to any more start again where their class is represented worst."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.distributed import gather_over_processes
from protoseg_deploy.methods.prototype_loss import Judged


class Revival:
    """Restarts idle prototypes from far pixels of their class.

    Of each class the pixel with the smallest cosine to its nearest prototype is looked for, among those that count in a
    step, in all processes. One prototype of a class is restarted at a time, the longest idle: two that start from one
    pixel would be the same prototype twice.

    Args:
        after: steps without a pixel.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self._farthest: Tensor | None = None

    @torch.no_grad()
    def collect(self, judged: Judged, counted: Tensor, prototypes: Tensor) -> None:
        """See the pixels of a pass.

        Args:
            judged: N pixels.
            counted: ``[N]`` bool.
            prototypes: ``[C,K,D]``, of any length.
        """
        classes, per_class, _ = prototypes.shape
        vectors, pixels = judged.directions, len(counted)
        cosines = F.cosine_similarity(vectors, prototypes.flatten(0, 1)[judged.slots], dim=1)
        cosines = torch.where(counted, cosines, torch.inf)
        labels = judged.slots // per_class
        smallest = cosines.new_full((classes,), torch.inf).scatter_reduce_(0, labels, cosines, "amin")
        numbers = torch.arange(pixels, device=labels.device)
        numbers = torch.where(cosines == smallest[labels], numbers, pixels - 1)
        first = labels.new_full((classes,), pixels - 1).scatter_reduce_(0, labels, numbers, "amin")
        shown = torch.cat([smallest[:, None], vectors[first]], dim=1)
        self._farthest = shown if self._farthest is None else _farthest(torch.stack([self._farthest, shown]))

    @torch.no_grad()
    def commit(self, prototypes: Tensor, idle_steps: Tensor, taken: Tensor) -> None:
        """Restart in place what has been idle for long, if the step is taken; forget its pixels.

        Args:
            prototypes: ``[C,K,D]``.
            idle_steps: ``[C,K]`` int64, this step included.
            taken: scalar bool.
        """
        assert self._farthest is not None
        farthest = _farthest(gather_over_processes(self._farthest[None]))
        self._farthest = None
        longest = torch.arange(idle_steps.shape[1], device=idle_steps.device) == idle_steps.argmax(dim=1, keepdim=True)
        seen = farthest[:, :1].isfinite() & taken
        restarted = longest & (idle_steps >= self.after) & seen
        prototypes.copy_(torch.where(restarted[..., None], farthest[:, None, 1:], prototypes))
        idle_steps.masked_fill_(restarted, 0)


def _farthest(candidates: Tensor) -> Tensor:
    """``[P,C,1+D]`` cosines, each with its pixel, to the ``[C,1+D]`` of the smallest cosines, the first of equal."""
    which = candidates[..., 0].argmin(dim=0)
    return candidates.gather(0, which.view(1, -1, 1).expand(1, -1, candidates.shape[-1]))[0]
