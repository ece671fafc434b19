"""The values of a recipe that follow from the data and the machine, each with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CPU_SIDE, GPU_SIDE = 256, 768
"""Pixels of the shorter side that the network sees at most."""
_SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.125)
_STRIDE = 32
_RARE_PERCENT = 2.0


@dataclass(frozen=True)
class Facts:
    """What was found out about the data and the machine."""

    heights: Sequence[int]
    widths: Sequence[int]
    labeled: int
    unlabeled: int
    """Images to learn from without their masks, the labelled ones included."""
    val: int
    class_percent: Sequence[float]
    """Share of each class among the labelled pixels."""
    on_gpu: bool


@dataclass(frozen=True)
class Choice:
    """A recipe key, its value and why."""

    key: str
    value: Any
    reason: str


def choose(facts: Facts) -> list[Choice]:
    """Values for a first run: minutes on a CPU, hours on a GPU."""
    short = sorted(min(height, width) for height, width in zip(facts.heights, facts.widths, strict=True))
    middle = short[len(short) // 2]
    most = GPU_SIDE if facts.on_gpu else CPU_SIDE
    where = "a GPU" if facts.on_gpu else "a CPU"
    scale = next((each for each in _SCALES if middle * each <= most), _SCALES[-1])
    seen = int(middle * scale)
    crop = max(_STRIDE, min(512 if facts.on_gpu else 160, seen // _STRIDE * _STRIDE))
    steps = 10_000 if facts.on_gpu else 1_000 if facts.labeled <= 100 else 2_000
    batch = 8 if facts.on_gpu else 4
    return [
        Choice("data.input_scale", scale, f"the shorter side is {middle} pixels; on {where} the network sees {seen}"),
        *_method(facts),
        Choice("train.steps", steps, f"a first run on {where} with {facts.labeled} labelled images"),
        Choice("train.crop", crop, f"of {seen} pixels, in multiples of the deepest stride"),
        *_balance(facts),
        Choice("train.batch_labeled", batch, "what fits is measured"),
        Choice("train.batch_unlabeled", batch, "as many as labelled ones"),
        Choice("train.optimizer", "adamw", "needs little tuning"),
        Choice("train.lr", 0.0005, "of the pretrained backbone; decoder and head learn 4 times as fast"),
        Choice("train.head_lr_factor", 4, ""),
        Choice("train.weight_decay", 0.01, ""),
        Choice("train.scale", [0.5, 1.5], ""),
        Choice("train.eval_every", max(1, steps // 4), f"four times, on {facts.val} images"),
        Choice("train.checkpoint_every", max(1, steps // 4), ""),
    ]


def _method(facts: Facts) -> list[Choice]:
    others = facts.unlabeled - facts.labeled
    if others < max(1, facts.labeled):
        return [
            Choice(
                "method.name",
                "supervised",
                f"{max(0, others)} images without masks beside {facts.labeled} with: too few to learn from",
            )
        ]
    return [
        Choice("method.name", "prototype", f"{others} images without masks beside {facts.labeled} with"),
        Choice("method.confidence_threshold", 0.9, ""),
        Choice("method.unlabeled_start", 0.3, "labelled images alone until pseudo-labels are worth something"),
        Choice("method.unlabeled_ramp", 0.1, ""),
        Choice("method.unlabeled_weight", 0.5, ""),
        Choice("method.prototypes.start", 0.3, ""),
        Choice("method.prototypes.weight", 0.1, ""),
        Choice("method.prototypes.pseudo_label_share", 0.25, ""),
        Choice("method.prototypes.class_balanced", True, ""),
    ]


def _balance(facts: Facts) -> list[Choice]:
    rarest = min(facts.class_percent, default=100.0)
    if rarest >= _RARE_PERCENT:
        return []
    return [
        Choice("train.class_aware_share", 0.25, f"the rarest class has {rarest:.2g} % of the labelled pixels"),
        Choice("train.logit_adjustment", 0.25, "for the same reason"),
    ]
