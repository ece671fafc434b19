"""Where and how a run computes, with the reasons."""

import os
from dataclasses import dataclass
from typing import TypeVar

import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from protoseg_deploy.data.shared_memory import WorkerPlan, plan_workers
from protoseg_deploy.distributed import world
from protoseg_deploy.errors import UsageError
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Train
from protoseg_deploy.training.depthwise import differentiate_depthwise_in_fp32

Network = TypeVar("Network", bound=nn.Module)

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """Device, autocast type and data-loader workers of a run."""

    device: torch.device
    precision: str
    workers: int
    notes: tuple[str, ...]

    @classmethod
    def choose(cls, spec: Train) -> "Compute":
        """Settle what a recipe leaves to the machine.

        Raises:
            UsageError: the recipe asks for a device or a precision that is not available.
        """
        if spec.device == "cuda" and not torch.cuda.is_available():
            raise UsageError("train.device: no CUDA device is available", "Set train.device to auto or cpu.")
        name = spec.device if spec.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device(name, int(os.environ.get("LOCAL_RANK", "0"))) if name == "cuda" else torch.device(name)
        if spec.precision == "fp16" and name == "cpu":
            raise UsageError("train.precision: fp16 trains on CUDA only", "Set train.precision to fp32 or bf16.")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        cores = max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        if spec.workers != "auto":
            workers, why = spec.workers, "as the recipe says"
        elif name == "cuda":
            workers, why = max(1, min(8, cores - 1)), f"{cores} cores, GPU training"
        else:
            workers, why = (1 if cores > 1 and torch.get_num_threads() > 1 else 0), f"{cores} cores, CPU training"
        label = torch.cuda.get_device_name(device) if name == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        here, noun = world(), "worker" if workers == 1 else "workers"
        label += f", {here.size} processes" if here.size > 1 else ""
        notes = (f"computing in {spec.precision} on {label}; {workers} data-loader {noun} ({why})",)
        return cls(device, spec.precision, workers, notes)

    def plan_workers(self, spec: Train, batch_bytes: int) -> WorkerPlan:
        """The data-loader workers, as far as their batches fit into shared memory.

        Args:
            spec: gives their number or leaves it to the machine.
            batch_bytes: of a batch of this process.

        Raises:
            UsageError: a number that the recipe gives does not fit.
        """
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return plan_workers(self.workers, batch_bytes, fixed=spec.workers != "auto", training_processes=processes)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, _DTYPES[self.precision], enabled=self.precision != "fp32")

    def place(self, network: Segmenter) -> Segmenter:
        """On the device, channels last, and made ready for its precision."""
        if self.device.type == "cpu" and self.precision == "bf16":
            differentiate_depthwise_in_fp32(network)
        return self.synchronised(network).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def synchronised(self, network: Network) -> Network:
        """With batch normalisation over all processes where these have GPUs."""
        if world().size > 1 and self.device.type == "cuda":
            return synchronise_normalisation(network)
        return network


def synchronise_normalisation(network: Network) -> Network:
    """With every batch normalisation replaced by one over all processes.

    By timm's conversion: torch's drops the activations that timm puts into its normalisation layers.
    """
    converted: Network = convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return converted
