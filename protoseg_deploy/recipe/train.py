"""The ``train`` and ``distill`` sections: the loop, and distillation from a finished teacher."""

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, field_validator, model_validator

from protoseg_deploy.recipe.types import (
    MAY_CHANGE,
    Choice,
    Count,
    Images,
    Mark,
    NonNegative,
    Positive,
    Resize,
    Section,
    Seed,
    Share,
    Side,
    Steps,
)
from protoseg_deploy.registry import TRACKERS

Tracker = Annotated[str, Choice(TRACKERS.names)]


class Ohem(Section):
    """Online hard example mining: average over hard pixels only."""

    threshold: Share = 0.7
    """Pixels whose true class is predicted with less than this probability are hard."""
    min_kept: Count = 100_000
    """Average over at least this many pixels of a batch, the hardest first."""


class Train(Section):
    """The loop: length, views, optimiser, bookkeeping."""

    steps: Steps = 10_000
    """Optimiser steps. Keys ending in ``start`` or ``ramp`` are shares of them."""
    extended_from: Annotated[Steps | None, Mark(written_by="protoseg train --extend-to")] = None
    """Number of steps before the run was extended; start and ramp schedules remain shares of it."""
    max_hours: Annotated[Positive | None, Mark("hours", may_change=True)] = None
    """Stop after a checkpoint once training has taken this long; ``--resume`` continues from there."""
    crop: Annotated[Side, Mark("pixels")] = 321
    """Side of the square training crop, at ``data.input_scale``."""
    scale: Annotated[tuple[Resize, Resize], Strict(False)] = (0.5, 2.0)
    """Range of the random resize before the crop."""
    flip: bool = True
    """Random horizontal flip."""
    class_aware_share: Share = 0.0
    """Share of the labelled crops that are sampled to show a drawn class, mostly a rare one."""
    copy_paste_probability: Share = 0.0
    """Probability that one or two classes of another crop, mostly rare ones, are pasted into a labelled crop."""
    batch_labeled: Images = 8
    """Labelled images per step, over all processes."""
    batch_unlabeled: Images = 8
    """Unlabelled images per step, over all processes."""
    accumulate: Images = 1
    """Gradient accumulation: split the images of a step into this many parts, each with its own forward and backward
    pass, to save memory."""
    seed: Seed = 0
    """Seed of all random numbers in training; equal seeds give equal runs on the same machine."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast type; fp16 uses loss scaling. bf16 also runs on recent CPUs."""
    device: Annotated[Literal["auto", "cpu", "cuda"], MAY_CHANGE] = "auto"
    """``auto``: a GPU if PyTorch finds one, else the CPU."""
    workers: Annotated[Annotated[int, Field(ge=0, le=1024)] | Literal["auto"], MAY_CHANGE] = "auto"
    """Data-loader workers of each training process; results do not depend on their number. ``auto``: as many as cores
    and shared memory (``/dev/shm``) allow."""
    timeout_s: Annotated[Positive, Mark("seconds", may_change=True)] = 300.0
    """Longest wait for a batch of the data-loader workers, and for a heartbeat from the other training processes,
    before the run stops; it can be resumed."""
    compile: bool = False
    """Compile student and teacher with ``torch.compile``: the first steps are slow, later ones faster."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """``adamw`` for transformers and ConvNeXt, with ``lr`` near 0.0001."""
    lr: Annotated[float, Field(ge=1e-12, le=1000.0)] = 0.001
    """Learning rate of the backbone."""
    head_lr_factor: Positive = 10.0
    """Multiplier of ``lr`` for decoder and heads."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of ``sgd``."""
    weight_decay: NonNegative = 1e-4
    """Weight decay; ``adamw`` excludes biases and normalisation parameters."""
    poly_power: NonNegative = 0.9
    """Polynomial decay: the learning rate is multiplied by (1 - step/steps) ** poly_power."""
    warmup_steps: Annotated[int, Field(ge=0, le=99_999_999), Mark("steps")] = 0
    """Length of the linear warm-up of the learning rate."""
    clip_grad_norm: Positive | None = None
    """Clip the global gradient norm to this value; absent: no clipping."""
    max_skipped_steps: Annotated[Count, MAY_CHANGE] = 10
    """A step with a NaN or infinite loss or gradient is skipped; after this many in a row, training stops."""
    logit_adjustment: NonNegative = 0.0
    """Strength of the logit adjustment for class imbalance in losses on labels and pseudo-labels: 0 is none, 1 balances
    the classes fully."""
    ohem: Ohem | None = None
    """Hard example mining on the labelled loss: ``{threshold: 0.7, min_kept: 100000}``; absent: all pixels are used."""
    auxiliary_weight: NonNegative = 0.0
    """Loss weight of a training-only auxiliary head on the penultimate stage of the backbone; 0: no head."""
    eval_every: Annotated[Count, Mark("steps")] = 1_000
    """Interval between evaluations."""
    eval_batch: Annotated[Images, MAY_CHANGE] = 1
    """Validation images (of the same size), or windows, per forward pass."""
    eval_window: Annotated[Side | None, Mark("pixels")] = None
    """Evaluate in square sliding windows of this side, at ``data.input_scale``, and average their logits; absent: whole
    images."""
    eval_stride: Annotated[Count | None, Mark("pixels")] = None
    """Stride of the windows; absent: two thirds of ``eval_window``."""
    checkpoint_every: Annotated[Count, Mark("steps", may_change=True)] = 500
    """Interval between checkpoints."""
    log_every: Annotated[Count, Mark("steps", may_change=True)] = 20
    """Interval between log entries of the losses."""
    trackers: Annotated[tuple[Tracker, ...], Field(max_length=16), Strict(False), MAY_CHANGE] = ("tensorboard",)
    """Where figures are written beside ``metrics.jsonl``; ``[]``: nowhere. ``mlflow`` and ``wandb`` are extras and
    write below the run folder, unless MLFLOW_TRACKING_URI or WANDB_MODE say otherwise."""

    @field_validator("trackers")
    @classmethod
    def _trackers_are_different(cls, trackers: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(trackers)) < len(trackers):
            raise ValueError(f"each tracker once, got {list(trackers)}")
        return trackers

    @field_validator("scale")
    @classmethod
    def _scale_is_a_range(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"a range is [smallest, largest], got {list(scale)}")
        return scale

    @model_validator(mode="after")
    def _windows_overlap(self) -> Self:
        if self.eval_stride is not None and (self.eval_window is None or self.eval_stride > self.eval_window):
            raise ValueError("`eval_stride` goes with `eval_window` and is not larger")
        return self

    @property
    def planned_steps(self) -> int:
        """What start and ramp schedules are shares of."""
        return self.extended_from or self.steps


class Distill(Section):
    """Distillation from a finished teacher (``protoseg distill``)."""

    temperature: Positive = 2.0
    """Temperature of both softmaxes in the Kullback-Leibler term."""
    label_weight: NonNegative = 1.0
    """Weight of the cross-entropy on labelled images."""
    kl_weight: NonNegative = 1.0
    """Weight of the Kullback-Leibler divergence from the teacher's class probabilities, on labelled and unlabelled
    images."""
    channel_weight: NonNegative = 1.0
    """Weight of the channel-wise distillation of the spatial response of each class (Shu et al., ICCV 2021)."""
    channel_temperature: Positive = 4.0
    """Temperature of the softmax over positions in the channel-wise term."""
    target: Literal["auto", "linear", "prototype", "mean"] = "auto"
    """Distil from the teacher's linear head, its prototype head, or the mean of both probabilities; ``auto``: the
    prototype head if the teacher has one, else the linear head."""
    start_from_teacher: bool = True
    """Initialise a student that has the teacher's backbone from the teacher's weights; with the same decoder, also the
    decoder weights that fit."""
    unlabeled_view: Literal["weak", "strong", "weak_to_strong"] = "weak_to_strong"
    """Views of unlabelled images; ``weak_to_strong``: weak views for the teacher, strong views for the
    student."""
