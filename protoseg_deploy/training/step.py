"""One optimiser step: passes over the parts of a batch, and what follows only if all of it is finite."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, get_total_norm

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.distributed import sum_over_processes, world
from protoseg_deploy.methods import Method, StepResult
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Recipe, Train
from protoseg_deploy.training.devices import Compute
from protoseg_deploy.training.ema import EmaTeacher
from protoseg_deploy.training.optimization import build_optimizer, build_schedule, restore_schedule
from protoseg_deploy.training.processes import check_parts


@dataclass(frozen=True)
class StepOutcome:
    """What became of a step; nothing of it has been read by the host."""

    result: StepResult
    """Averaged over the parts of the batch."""
    taken: Tensor
    """Scalar bool on the device, the same in every process: false where the step was skipped."""


class _Passes(nn.Module):
    """What `DistributedDataParallel` wraps: everything that has gradients, from a batch to its losses."""

    def __init__(self, student: Segmenter, method: Method) -> None:
        super().__init__()
        self.student = student
        self.method = method

    def forward(self, teacher: Segmenter, batch: Batch, step: int) -> StepResult:
        return self.method.step(self.student, teacher, batch, step)


class TrainStep:
    """Student, teacher, method and optimiser, one step at a time.

    A step whose loss or gradient is not finite, in whichever process, changes no parameter, no statistic of a
    normalisation and no prototype; the moving average still moves towards what the student already was. That is decided
    on the device, so that the host never waits for it: the optimiser is a fused one, which reads a flag, and what
    forward passes changed is put back by the same flag.

    Args:
        recipe: how to train, and whether there is an EMA teacher.
        compute: device and precision.
        student: on the device, with synchronised normalisation where there are several GPUs.
        method: the same.

    Raises:
        UsageError: the images of a step cannot be spread over processes and parts.
    """

    def __init__(self, recipe: Recipe, compute: Compute, student: Segmenter, method: Method) -> None:
        spec, on_gpu = recipe.train, compute.device.type == "cuda"
        check_parts(recipe, method, normalised_together=on_gpu)
        self.spec, self.compute = spec, compute
        self.student, self.method = student, method
        self.ema = EmaTeacher(student, recipe.method.ema_decay) if recipe.method.ema_teacher else None
        passes = _Passes(student, method)
        self.passes: nn.Module = passes
        if world().size > 1:
            freeze_idle(student, spec)
            devices = [compute.device.index] if on_gpu else None
            with warnings.catch_warnings():  # newer versions of torch have two options in place of `broadcast_buffers`
                warnings.simplefilter("ignore", FutureWarning)
                self.passes = DistributedDataParallel(
                    passes, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
                )
        self.optimizer = build_optimizer(spec, student, method)
        self.schedule = build_schedule(spec, self.optimizer)
        self.trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.statistics = _normalisation_statistics(student, method)
        # For fp32 and bf16 the scale stays 1: what is used of the scaler is that it skips a step without a host sync.
        # On the CPU there is nothing to wait for.
        scale, patience = (2.0**16, 2000) if spec.precision == "fp16" else (1.0, 2**31 - 1)
        self.scaler = torch.amp.GradScaler(
            compute.device.type, init_scale=scale, growth_interval=patience, enabled=on_gpu
        )
        networks = [student] if self.ema is None else [student, self.ema.network]
        self.compiled = {network: torch.compile(network.forward_features) for network in networks if spec.compile}

    def take(self, batch: Batch, step: int) -> StepOutcome:
        """One step on this process's part of a batch.

        Args:
            batch: on the device, as many images as the recipe gives this process.
            step: counted from 0.
        """
        before = [statistic.clone() for statistic in self.statistics]
        self.optimizer.zero_grad(set_to_none=True)
        with self._compiled_networks():
            result = _average([self._pass(part, step, last) for part, last in _parts(batch, self.spec.accumulate)])
        loss_is_broken = sum_over_processes((~result.total().detach().isfinite()).float()) > 0
        taken = self.optimize(loss_is_broken)
        self._settle_statistics(before, taken)
        self.method.commit(taken)
        if self.ema:
            self.ema.update()
        return StepOutcome(result, taken)

    @property
    def lr(self) -> float:
        """Of the backbone at the next step."""
        return float(self.schedule.get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        restore_schedule(self.schedule, state["schedule"])
        self.scaler.load_state_dict(state["scaler"])

    def _pass(self, part: Batch, step: int, last: bool) -> StepResult:
        teacher = self.ema.network if self.ema else self.student
        # Gradients of the parts add up in each process and are averaged over processes once.
        together = last or not isinstance(self.passes, DistributedDataParallel)
        with nullcontext() if together else self.passes.no_sync():  # type: ignore[operator]
            with self.compute.autocast():
                result: StepResult = self.passes(teacher, part, step)
            loss = result.total() / self.spec.accumulate
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        return result

    def optimize(self, loss_is_broken: Tensor) -> Tensor:
        """Change the parameters unless loss or gradients are not finite; returns whether, as a scalar on the device."""
        if self.scaler.is_enabled():
            # A loss can be infinite while its gradients are not: let the scaler see it all the same.
            gradient = next(parameter.grad for parameter in self.trained if parameter.grad is not None)
            gradient.add_(torch.where(loss_is_broken, float("nan"), 0.0).to(gradient.dtype))
            self.scaler.unscale_(self.optimizer)
        taken = self._gradient_norm().isfinite() & ~loss_is_broken
        if self.scaler.is_enabled() or taken:
            self.scaler.step(self.optimizer)
        self.scaler.update(None if self.spec.precision == "fp16" else 1.0)
        with warnings.catch_warnings():  # before the first step of the optimiser torch takes this for a mistake
            if not self.scaler.is_enabled() and not taken:
                warnings.simplefilter("ignore", UserWarning)
            self.schedule.step()
        return taken

    def _gradient_norm(self) -> Tensor:
        """Of all gradients together, the same in every process; they are clipped to it where the recipe says so."""
        if self.spec.clip_grad_norm is not None:
            return clip_grad_norm_(self.trained, self.spec.clip_grad_norm)
        return get_total_norm([parameter.grad for parameter in self.trained if parameter.grad is not None])

    def _settle_statistics(self, before: Sequence[Tensor], taken: Tensor) -> None:
        """Put back what the passes of a skipped step have changed.

        Where normalisation is not synchronised (on the CPU), processes average their running statistics.
        """
        if self.compute.device.type == "cuda" or not taken:
            for statistic, value in zip(self.statistics, before, strict=True):
                torch.where(taken, statistic, value, out=statistic)
        shared = [statistic for statistic in self.statistics if statistic.is_floating_point()]
        if world().size == 1 or self.compute.device.type == "cuda" or not shared:
            return
        flat = sum_over_processes(torch.cat([statistic.flatten() for statistic in shared])) / world().size
        for statistic, value in zip(shared, torch.split(flat, [value.numel() for value in shared]), strict=True):
            statistic.copy_(value.view_as(statistic))

    @contextmanager
    def _compiled_networks(self) -> Iterator[None]:
        """Compiled forward passes for the time of a step: evaluation sees images of any size and stays eager."""
        for network, compiled in self.compiled.items():
            network.forward_features = compiled  # type: ignore[method-assign]
        try:
            yield
        finally:
            for network in self.compiled:
                del network.forward_features


def _parts(batch: Batch, count: int) -> list[tuple[Batch, bool]]:
    """The parts of an accumulated step, each with whether it is the last."""
    parts = batch.parts(count) if count > 1 else [batch]
    return [(part, number == count - 1) for number, part in enumerate(parts)]


def _average(results: Sequence[StepResult]) -> StepResult:
    if len(results) == 1:
        return results[0]

    def mean(values: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.stack([value[name].detach() for value in values]).mean() for name in values[0]}

    return StepResult(mean([result.losses for result in results]), mean([result.monitors for result in results]))


def _normalisation_statistics(*networks: nn.Module) -> list[Tensor]:
    """What forward passes change: running statistics, and the counters of batches."""
    layers = (module for network in networks for module in network.modules())
    return [buffer for layer in layers if isinstance(layer, _BatchNorm) for buffer in layer.buffers(recurse=False)]


def freeze_idle(student: Segmenter, spec: Train) -> None:
    """Take parameters that no loss depends on out of training: processes would wait for their gradients forever."""
    was_training = student.training
    student.eval()  # neither statistics nor random numbers are touched
    output = student.forward_features(torch.zeros(1, 3, spec.crop, spec.crop, device=student.head.weight.device))
    reached = [output.logits, output.pyramid[-2]] if spec.auxiliary_weight else [output.logits]
    torch.stack([values.float().sum() for values in reached]).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter.grad is not None)
        parameter.grad = None
    student.train(was_training)
