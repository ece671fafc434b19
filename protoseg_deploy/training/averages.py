"""Averages of losses between two log lines, without a host sync in the steps between."""

import time

import torch
from torch import Tensor

from protoseg_deploy.methods import StepResult


class StepAverages:
    """Sums of losses and monitors on the device; read by the host only when asked."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.since = time.perf_counter()

    def restart_clock(self) -> None:
        """Leave what came between two steps (an evaluation, a checkpoint) out of the speed."""
        self.since = time.perf_counter()

    def add(self, result: StepResult) -> None:
        values = {**result.losses, **result.monitors}
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1
        self.steps += 1

    def read(self) -> tuple[dict[str, float], float]:
        names = list(self.sums)
        totals = torch.stack([self.sums[name].float() for name in names]).tolist()
        averages = {name: total / self.counts[name] for name, total in zip(names, totals, strict=True)}
        speed = self.steps * self.images_per_step / max(1e-9, time.perf_counter() - self.since)
        self.clear()
        return averages, speed
