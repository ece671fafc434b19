"""Steps that were skipped because loss or gradient were not finite: counted, and looked at when there are too many."""

from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.distributed import world
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import write_atomically

RandomState = dict[str, Tensor]

_STEPS_BEHIND = 2


class TooManySkipped(ProtosegError):
    """Training stopped because step after step was skipped."""

    def __init__(self, steps: int, last: int, file: Path) -> None:
        super().__init__(
            f"the loss is NaN or infinite: {steps} steps in a row were skipped, up to step {last}",
            f"See why with `protoseg replay {file}`; then lower train.lr, set train.clip_grad_norm=1, or train "
            "in another precision. Checkpoints made before are kept.",
        )


@dataclass
class _Seen:
    step: int
    taken: Tensor
    ready: torch.cuda.Event | None
    batch: Batch
    random_state: RandomState


class SkippedSteps:
    """Follows the device a step or two behind, so that the host never waits for it.

    Args:
        limit: steps in a row that may be skipped.
        device: of the networks.
    """

    def __init__(self, limit: int, device: torch.device) -> None:
        self.limit = limit
        self.on_gpu = device.type == "cuda"
        self.in_a_row = 0
        self._behind: deque[_Seen] = deque()

    def see(
        self, step: int, taken: Tensor, batch: Batch, random_state: RandomState
    ) -> tuple[int, Batch, RandomState] | None:
        """Remember a step.

        Args:
            step: counted from 0.
            taken: scalar bool on the device: whether the step was not skipped.
            batch: what the step learned from.
            random_state: of torch's generators before the step.

        Returns:
            Step, batch and random state of the last of too many steps in a row; None while there are not.
        """
        ready = None
        if self.on_gpu:
            flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            flag.copy_(taken, non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        else:
            flag = taken
        self._behind.append(_Seen(step, flag, ready, batch, random_state))
        while self._behind and (not self.on_gpu or len(self._behind) > _STEPS_BEHIND):
            oldest = self._behind.popleft()
            if oldest.ready is not None:
                oldest.ready.synchronize()  # two steps old: over, or as good as over
            self.in_a_row = 0 if oldest.taken else self.in_a_row + 1
            if self.in_a_row >= self.limit:
                return oldest.step, oldest.batch, oldest.random_state
        return None


def write_replay(folder: Path, step: int, batch: Batch, random_state: RandomState, state: dict[str, Any]) -> Path:
    """Keep all it takes to repeat a step: one file per process.

    Args:
        folder: of the run.
        step: counted from 0.
        batch: of this process, on any device.
        random_state: of torch's generators before the step.
        state: of networks and method, which skipped steps have not changed.
    """
    here = world()
    name = f"skipped-step-{step:08d}.pt" if here.size == 1 else f"skipped-step-{step:08d}-process-{here.rank}.pt"
    tensors = {key: value.cpu() for key, value in vars(batch).items() if isinstance(value, Tensor)}
    document = {
        "step": step,
        "files": list(batch.files),
        "first_slots": list(batch.first_slots),
        "batch": tensors,
        "random_state": random_state,
        **state,
    }
    write_atomically(folder / name, lambda file: torch.save(document, file))
    return folder / name
