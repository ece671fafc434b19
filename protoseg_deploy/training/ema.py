"""The moving-average teacher."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from protoseg_deploy.models import Segmenter


class EmaTeacher:
    """Exponential moving average of a student, parameters and buffers: ``θ' ← m θ' + (1-m) θ``.

    The decay is ``min(1 - 1/(n+1), decay)`` at the n-th update (n from 0), so that the first update copies the
    student. The counter is part of the state: a resumed run continues with the decay it had.
    """

    def __init__(self, student: Segmenter, decay: float) -> None:
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, student: Segmenter) -> None:
        momentum = min(1.0 - 1.0 / (self.updates + 1), self.decay)
        self.updates += 1
        averaged, current = _tensors(self.network), _tensors(student)
        floating = [pair for pair in zip(averaged, current, strict=True) if pair[0].is_floating_point()]
        torch._foreach_lerp_([old for old, _ in floating], [new for _, new in floating], 1.0 - momentum)
        for old, new in zip(averaged, current, strict=True):
            if not old.is_floating_point():  # batch counters
                old.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def _tensors(network: Segmenter) -> Sequence[Tensor]:
    return [*network.parameters(), *network.buffers()]
