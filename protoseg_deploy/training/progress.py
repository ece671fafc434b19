"""What people see of a training run: a live line on a terminal, plain lines elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from protoseg_deploy.text import printable


class TrainingProgress:
    """Context manager around the loop; writes to standard error.

    Args:
        steps: of the whole run.
        first_step: where this process starts.
        quiet: show nothing but warnings.
    """

    def __init__(self, steps: int, first_step: int, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self.steps = steps
        self.first_step = first_step
        self.started = time.perf_counter()
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
        )
        self.task = self.bar.add_task("train", total=steps, completed=first_step, figures="")
        self.figures = ""
        self.miou = ""

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self) -> None:
        self.bar.advance(self.task)

    def show(self, averages: dict[str, float], images_per_second: float) -> None:
        """Loss terms and speed, averaged since the last call."""
        parts = [f"{images_per_second:.1f} images/s"]
        parts += [f"{name} {value:.3f}" for name, value in averages.items() if name != "confident_share"]
        if "confident_share" in averages:
            parts.append(f"confident {100 * averages['confident_share']:.0f} %")
        self.figures = "  ".join(parts)
        self.bar.update(self.task, figures=f"{self.figures}  {self.miou}")

    def evaluated(self, step: int, miou_percent: dict[str, float], best_percent: float) -> None:
        """A line that stays, with what the networks reach on the validation images."""
        scores = ", ".join(f"{name} {value:.2f}" for name, value in miou_percent.items())
        self.miou = f"mIoU {scores}"
        self.bar.update(self.task, figures=f"{self.figures}  {self.miou}")
        elapsed = time.perf_counter() - self.started
        done = max(1, step - self.first_step)
        remaining = elapsed / done * (self.steps - step)
        self.say(
            f"step {step}/{self.steps}  mIoU {scores} (best {best_percent:.2f})  {self.figures}  "
            f"{elapsed:.0f} s, {remaining:.0f} s to go"
        )

    def say(self, line: str) -> None:
        self.console.print(printable(line), highlight=False, soft_wrap=True, markup=False)
