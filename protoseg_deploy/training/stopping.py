"""SIGINT and SIGTERM end a run after a step and a checkpoint, not in the middle of one."""

import signal
from pathlib import Path
from typing import Any, Self

from protoseg_deploy.errors import ProtosegError

RESUMING = "the same command and --resume"
"""In hints, how a run goes on."""


class Interrupted(ProtosegError):
    """The run was asked to stop and has saved itself."""

    def __init__(self, run: Path, step: int, signal_number: int) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name} after step {step}; everything is saved",
            f"Continue with {RESUMING} (run folder {run}).",
        )
        self.exit_code = 128 + signal_number


class OutOfTime(ProtosegError):
    """``train.max_hours`` are over and the run has saved itself; exit code 0, for nothing went wrong."""

    def __init__(self, run: Path, step: int, steps: int, seconds: float) -> None:
        super().__init__(
            f"train.max_hours: stopped after {seconds / 3600:.2f} hours at step {step} of {steps}; everything is saved",
            f"Continue with {RESUMING} (run folder {run}).",
        )
        self.exit_code = 0


class StopSignals:
    """Remembers SIGINT and SIGTERM until the step is over; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        except ValueError:  # not in the main thread: nothing to handle there
            self._before.clear()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: object) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
