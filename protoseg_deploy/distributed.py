"""Several processes, one batch: what methods and the loop need of ``torch.distributed``.

Every process works on its part of a global batch. Gradients are averaged over processes, so a loss is a mean over the
global batch exactly if each process contributes ``processes * its sum / global count``; see `mean_over`.
"""

import os
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int
    size: int

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def slots(self, items: int) -> range:
        """The places of this process in a global batch of `items`, which is a multiple of the number of processes."""
        each = items // self.size
        return range(self.rank * each, (self.rank + 1) * each)


def world() -> World:
    """One process on its own unless a process group is there."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


def launched_by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@torch.no_grad()
def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, bit for bit the same in each; detached from the graph."""
    if world().size == 1:
        return value.detach()
    total = value.detach().clone()
    dist.all_reduce(total)
    return total


@torch.no_grad()
def gather_over_processes(values: Tensor) -> Tensor:
    """``[N,…]`` of every process, of the same shape in each, to ``[P*N,…]``."""
    size = world().size
    if size == 1:
        return values.detach()
    parts = [torch.empty_like(values) for _ in range(size)]
    dist.all_gather(parts, values.detach().contiguous())
    return torch.cat(parts)


@torch.no_grad()
def copy_of_first(value: Tensor) -> Tensor:
    """The value the first process has, in every process."""
    if world().size == 1:
        return value
    copied = value.detach().clone().contiguous()
    dist.broadcast(copied, src=0)
    return copied


def mean_over(total: Tensor, count: Tensor) -> Tensor:
    """``total / count`` over the pixels of all processes, as a term of a loss whose gradients are averaged.

    Args:
        total: scalar, the sum over this process's pixels, with its graph.
        count: scalar, how many pixels of this process it is over.
    """
    return total * world().size / sum_over_processes(count.to(total.dtype)).clamp(min=1)
