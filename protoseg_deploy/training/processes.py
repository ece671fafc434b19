"""Several training processes, started by ``torchrun``: joining them, and agreeing when to stop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from protoseg_deploy.distributed import launched_by_torchrun, world
from protoseg_deploy.errors import UsageError
from protoseg_deploy.recipe import Train


@contextmanager
def process_group(spec: Train) -> Iterator[None]:
    """Join the other processes for a block: NCCL where there are GPUs, gloo on the CPU; alone, nothing happens.

    Raises:
        UsageError: the batch sizes of the recipe cannot be spread over the processes.
    """
    if not launched_by_torchrun() or world().size > 1:
        yield
        return
    processes = int(os.environ["WORLD_SIZE"])
    _require_divisible(spec, processes)
    on_gpu = spec.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_divisible(spec: Train) -> None:
    """Raises UsageError where a step cannot be split into equal parts."""
    _require_divisible(spec, world().size)


def _require_divisible(spec: Train, processes: int) -> None:
    parts = processes * spec.accumulate
    for key, images in (("batch_labeled", spec.batch_labeled), ("batch_unlabeled", spec.batch_unlabeled)):
        if images % parts:
            split = f"{processes} processes" if spec.accumulate == 1 else f"{processes} × {spec.accumulate} parts"
            raise UsageError(
                f"train.{key}: {images} images a step cannot be spread over {split}",
                f"Batch sizes are those of all processes together: make it a multiple of {parts}.",
            )


def wait_for_others() -> None:
    if world().size > 1:
        dist.barrier()


def agreed(wish: int, device: torch.device) -> int:
    """The same number in every process: that of the one that wishes most, 0 if none does."""
    if world().size == 1:
        return wish
    value = torch.tensor(wish, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def own_random_numbers(seed: int) -> None:
    """Dropout and the like differ between processes; what has to be alike in them is seeded where it is drawn."""
    if not world().is_first:
        torch.manual_seed(seed + world().rank)


def own_random_state(device: torch.device) -> dict[str, Tensor]:
    """Of torch's generators in this process."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def random_states(device: torch.device) -> list[dict[str, Tensor]]:
    """Of torch's generators in every process."""
    if world().size == 1:
        return [own_random_state(device)]
    states: list[dict[str, Tensor]] = [{} for _ in range(world().size)]
    dist.all_gather_object(states, own_random_state(device))
    return states


def restore_random_state(states: list[dict[str, Tensor]], device: torch.device) -> None:
    """What `random_states` gave; a process more than there were then keeps the numbers it has."""
    if world().rank >= len(states):
        return
    state = states[world().rank]
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
