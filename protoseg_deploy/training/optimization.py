"""Optimiser and learning-rate schedule of a recipe."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Train


def build_optimizer(spec: Train, student: Segmenter, method: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW; everything but the backbone learns `head_lr_factor` times faster.

    AdamW does not decay biases and normalisation parameters. Both are the fused ones: they skip a step by a flag on the
    device.
    """
    backbone = list(student.backbone.parameters())
    known = {id(parameter) for parameter in backbone}
    others = [parameter for parameter in student.parameters() if id(parameter) not in known]
    others += list(method.parameters())
    groups = []
    for parameters, lr in ((backbone, spec.lr), (others, spec.lr * spec.head_lr_factor)):
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        if spec.optimizer == "sgd":
            groups.append({"params": trainable, "lr": lr, "weight_decay": spec.weight_decay})
            continue
        groups.append({"params": _matrices(trainable), "lr": lr, "weight_decay": spec.weight_decay})
        groups.append({"params": _vectors(trainable), "lr": lr, "weight_decay": 0.0})
    if spec.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, momentum=spec.momentum, fused=True)
        if spec.momentum:
            # Made here, because the fused step makes them of uninitialised memory, and keeps that if it is skipped.
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(groups, fused=True)


def build_schedule(spec: Train, optimizer: torch.optim.Optimizer) -> LambdaLR:
    """Linear warm-up, then ``(1 - step/steps) ** poly_power``, changed every step."""

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / spec.warmup_steps) if spec.warmup_steps else 1.0
        return float(warmup * (1.0 - min(step, spec.steps - 1) / spec.steps) ** spec.poly_power)

    return LambdaLR(optimizer, factor)


def restore_schedule(schedule: LambdaLR, state: dict[str, Any]) -> None:
    """Continue where a schedule stopped, by the formula of this one: the run may have become longer since.

    The optimiser comes first: with its state it takes the learning rates that its next step had in the old schedule.
    """
    schedule.load_state_dict(state)
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    rates = [lr * factor for lr, factor in zip(schedule.base_lrs, factors, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates


def _matrices(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.dim() > 1]


def _vectors(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.dim() <= 1]
