"""TensorBoard: event files in the folder ``tensorboard`` of the run."""

import threading
from collections.abc import Mapping
from typing import Any, ClassVar

from protoseg_deploy.text import readable
from protoseg_deploy.training.trackers.base import Outcome, RunFacts, Tracker


class TensorBoardTracker(Tracker):
    """Figures that a resumed run writes again replace those from before in TensorBoard's view."""

    libraries: ClassVar = ("torch.utils.tensorboard",)

    def start(self, facts: RunFacts) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(facts.run.tensorboard)
        if readable(folder) != folder:
            raise ValueError("it cannot write to a folder whose path is not UTF-8")
        threading.excepthook = _without_disk_errors
        self._writer: Any = SummaryWriter(folder, purge_step=facts.first_step)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, outcome: Outcome) -> None:
        self._writer.close()


def _without_disk_errors(thrown: threading.ExceptHookArgs) -> None:
    """What TensorBoard's thread cannot write shows no traceback: the error comes up again with the next figure."""
    if not isinstance(thrown.exc_value, OSError):
        threading.__excepthook__(thrown)
