"""Queues of labelled features, filled before prototypes start: what k-means then needs no extra forward passes for."""

import torch
from torch import Tensor

from protoseg_deploy.distributed import gather_over_processes
from protoseg_deploy.methods.statistics import StepStatistics


class FeatureQueues(StepStatistics):
    """The latest features of each class: a ring for each, the same in all processes, in buffers.

    Args:
        num_classes: C.
        channels: D.
        length: features a class keeps.
        at_once: features of a class that are taken from one pass of one process, so that no single batch fills a ring.
    """

    features: Tensor
    written: Tensor

    def __init__(self, num_classes: int, channels: int, length: int = 512, at_once: int = 16) -> None:
        super().__init__()
        self._collected: list[Tensor] = []
        self.length = length
        self.at_once = at_once
        # Ring after ring, and a row for what is not kept: rows to write are then as many at every step.
        self.register_buffer("features", torch.zeros(num_classes * length + 1, channels))
        self.register_buffer("written", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def collect(self, features: Tensor, labels: Tensor, counted: Tensor) -> None:
        """Choose what the next `commit` adds: of each class up to `at_once` pixels, spread evenly over all of its own.

        Args:
            features: ``[N,D]``.
            labels: ``[N]`` int64 in 0..C-1, also where a pixel does not count.
            counted: ``[N]`` bool.
        """
        classes, pixels, at_once = len(self.written), len(labels), self.at_once
        numbers = torch.arange(pixels, device=labels.device)
        members = (labels[:, None] == torch.arange(classes, device=labels.device)) & counted[:, None]
        rank = members.cumsum(dim=0).gather(1, labels[:, None])[:, 0] - 1
        of_class = members.sum(dim=0).clamp(min=1)[labels]
        place = torch.where(of_class > at_once, rank * at_once // of_class, rank)
        place = torch.where(counted, labels * at_once + place, classes * at_once)
        chosen = labels.new_full((classes * at_once + 1,), pixels).scatter_reduce_(0, place, numbers, "amin")[:-1]
        there = (chosen < pixels).to(features.dtype)[:, None]
        rows = torch.cat([features[chosen.clamp(max=pixels - 1)], there], dim=1)
        self._collected.append(rows.float().view(classes, at_once, -1))

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        if not self._collected:
            return
        shown = gather_over_processes(torch.cat(self._collected, dim=1)[None]).transpose(0, 1).flatten(1, 2)
        self._collected = []
        kept = (shown[..., -1] > 0) & taken
        order = kept.cumsum(dim=1)
        kept &= order <= self.length  # no place twice
        rings = torch.arange(len(self.written), device=shown.device)[:, None] * self.length
        rows = rings + (self.written[:, None] + order - 1) % self.length
        rows = torch.where(kept, rows, len(self.features) - 1)
        self.features.index_copy_(0, rows.flatten(), shown[..., :-1].flatten(0, 1))
        self.features[-1].zero_()
        self.written += kept.sum(dim=1)

    def of_classes(self) -> list[Tensor]:
        """``[n,D]`` features of each class, n at most `length`; reads from the device."""
        rings = self.features[:-1].view(len(self.written), self.length, -1)
        return [ring[: min(count, self.length)] for ring, count in zip(rings, self.written.tolist(), strict=True)]
