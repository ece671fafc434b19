"""The EMA teacher."""

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

    Args:
        student: whose tensors are read at every update; they stay the same tensors for the whole training.
        decay: m, reached after some updates.
    """

    def __init__(self, student: Segmenter, decay: float) -> None:
        self.network = copy.deepcopy(student).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0
        # Listed once: walking through all modules takes as long as averaging a small network.
        pairs = list(zip(_tensors(self.network), _tensors(student), strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]  # batch counters

    @torch.no_grad()
    def update(self) -> None:
        momentum = min(1.0 - 1.0 / (self.updates + 1), self.decay)
        self.updates += 1
        torch._foreach_lerp_([own for own, _ in self._averaged], [new for _, new in self._averaged], 1.0 - momentum)
        for own, new in self._copied:
            own.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.updates = state["updates"]


def _tensors(network: Segmenter) -> Sequence[Tensor]:
    return [*network.parameters(), *network.buffers()]
