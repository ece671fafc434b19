"""Averages of losses between two log lines, without a host sync in the steps between."""

import time

import torch
from torch import Tensor

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods import StepResult


class StepAverages:
    """Sums of losses and monitors on the device; read by the host only when asked.

    Skipped steps are counted and left out of the averages.
    """

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, Tensor] = {}
        self.skipped: Tensor | None = None
        self.steps = 0
        self.since = time.perf_counter()

    def restart_clock(self) -> None:
        """Leave what came between two steps (an evaluation, a checkpoint) out of the speed."""
        self.since = time.perf_counter()

    def add(self, result: StepResult, taken: Tensor) -> None:
        for name, value in {**result.losses, **result.monitors}.items():
            shown = torch.where(taken, value.detach().float(), 0.0)
            self.sums[name] = self.sums[name] + shown if name in self.sums else shown
            self.counts[name] = self.counts[name] + taken if name in self.counts else taken.float()
        self.skipped = ~taken + (0 if self.skipped is None else self.skipped)
        self.steps += 1

    def read(self) -> tuple[dict[str, float], int, float]:
        """Averages over steps and processes, how many steps were skipped, and images per second; starts over."""
        assert self.skipped is not None, "there was a step"
        names = list(self.sums)
        rows = [torch.stack([self.sums[name] for name in names]), torch.stack([self.counts[name] for name in names])]
        totals, counts = sum_over_processes(torch.stack(rows)).tolist()
        averages = {name: total / count for name, total, count in zip(names, totals, counts, strict=True) if count}
        skipped = int(self.skipped)
        speed = self.steps * self.images_per_step / max(1e-9, time.perf_counter() - self.since)
        self.clear()
        return averages, skipped, speed
