"""Several training processes, started by ``torchrun``: joining them, and agreeing when to stop."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from protoseg_deploy.distributed import launched_by_torchrun, world
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import Method
from protoseg_deploy.recipe import Recipe, Train
from protoseg_deploy.registry import DECODERS
from protoseg_deploy.training.peers import watched_peers

_PATIENCE = timedelta(hours=1)
"""How long processes wait for the first one, which checks data and clusters prototypes for all."""


@contextmanager
def process_group(spec: Train) -> Iterator[None]:
    """Join the other processes for a block: NCCL where there are GPUs, gloo on the CPU; alone, nothing happens.

    One that sends no heartbeat for ``train.timeout_s`` ends all of them.

    Raises:
        UsageError: there are more processes than GPUs.
        ProtosegError: another process has gone.
    """
    if not launched_by_torchrun() or world().size > 1:
        yield
        return
    on_gpu = spec.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _choose_gpu(int(os.environ["LOCAL_RANK"]))
    # Every restart under a name of its own: nothing that was left by the one before is taken for an answer.
    store, rank, processes = next(rendezvous("env://", timeout=_PATIENCE))
    store = PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=_PATIENCE)
    try:
        with watched_peers(store, rank, processes, spec.timeout_s):
            yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error).lower():
            raise ProtosegError(
                "another process of this training has failed; its own message says why",
                "Resume with the same command and --continue.",
            ) from None
        raise
    finally:
        dist.destroy_process_group()


def _choose_gpu(index: int) -> None:
    if index >= torch.cuda.device_count():
        raise UsageError(
            f"process {index + 1} on this machine, which has {torch.cuda.device_count()} GPUs",
            "Start one process for each GPU, or set train.device=cpu.",
        )
    torch.cuda.set_device(index)


def check_parts(recipe: Recipe, method: Method, *, normalised_together: bool) -> None:
    """Raises UsageError where the images of a step cannot be split into equal parts that can be trained on.

    Args:
        recipe: batch sizes, parts of an accumulated step, decoder.
        method: whether it wants unlabelled images, and mixes them two by two.
        normalised_together: whether batch normalisation sees the images of all processes.
    """
    spec, processes = recipe.train, world().size
    parts = processes * spec.accumulate
    pairs = 2 if parts > 1 and method.mixes_views else 1
    sizes = [("batch_labeled", spec.batch_labeled, parts)]
    sizes += [("batch_unlabeled", spec.batch_unlabeled, parts * pairs)] if method.uses_unlabeled else []
    for key, images, multiple in sizes:
        if images % multiple:
            split = f"{processes} processes" if spec.accumulate == 1 else f"{processes} × {spec.accumulate} parts"
            paired = ", in pairs" if multiple > parts else ""
            raise UsageError(
                f"train.{key}: {images} images per step cannot be spread over {split}{paired}",
                f"Batch sizes are those of all processes together: make it a multiple of {multiple}.",
            )
    together = spec.batch_labeled // (spec.accumulate if normalised_together else parts)
    decoder = recipe.model.decoder
    needed = DECODERS.get(decoder).min_batch
    if together < needed:
        raise UsageError(
            f"train.batch_labeled: {decoder} normalises over the batch and needs at least {needed} images in each part "
            f"of it, not {together}",
            "Set train.batch_labeled higher, train.accumulate lower, or another decoder.",
        )


def wait_for_others() -> None:
    if world().size > 1:
        dist.barrier()


def agreed(wish: int, device: torch.device) -> int:
    """The same number in every process: the largest that one of them wishes."""
    if world().size == 1:
        return wish
    value = torch.tensor(wish, device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def require_the_same(step: int, device: torch.device) -> None:
    """Raises UsageError where processes have come to different steps: each would continue from another network."""
    latest, earliest = agreed(step, device), -agreed(-step, device)
    if latest != earliest:
        raise UsageError(
            f"processes found different checkpoints: of step {earliest} and of step {latest}",
            "The folder of the run has to be one that all of them share, and every checkpoint readable.",
        )


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
