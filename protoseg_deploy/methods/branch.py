"""The prototype branch: a second head on the same features that exists in training only.

It can be put on any method that has labelled and strong-view outputs: see `PseudoLabelMethod`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from protoseg_deploy.distributed import copy_of_first, mean_over, sum_over_processes, world
from protoseg_deploy.methods.clustering import LabeledViews, cluster_prototypes
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.prototypes import PrototypeBank, gather_features, gather_values
from protoseg_deploy.methods.single_precision import at_least_single
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.models import Segmenter, SegmenterOutput
from protoseg_deploy.recipe import ClassTable, Prototypes, Recipe


class PrototypeBranch(nn.Module):
    """Losses of the prototype head on sampled pixels, and the upkeep of its bank.

    Both losses are cross-entropies over ``max_k cos / T``. Labelled pixels count with their label; unlabelled ones
    with the teacher's pseudo-label where its confidence reaches `confidence_threshold`. The pixels that
    count also move the bank. With `class_balanced` they weigh what `class_balancing_weights` says, in the losses only.

    Args:
        spec: the ``method.prototypes`` section of a recipe.
        num_classes: C.
        channels: D of the features.
        ignore_index: label that does not count.
        start: step at which the prototypes are placed; the branch has losses from then on.
        may_lack_classes: classes without a labelled pixel start without prototypes. Pixels that are taken for one do
            not count in the losses until it has some.
    """

    def __init__(
        self,
        spec: Prototypes,
        num_classes: int,
        channels: int,
        ignore_index: int,
        *,
        start: int = 0,
        may_lack_classes: bool = False,
    ) -> None:
        super().__init__()
        self.start = start
        self.weight = spec.weight
        self.features = spec.features
        self.threshold = spec.confidence_threshold
        self.grid = spec.grid
        self.class_balanced = spec.class_balanced
        self.pseudo_label_share = spec.pseudo_label_share
        self.ignore_index = ignore_index
        self.bank = PrototypeBank(
            num_classes,
            spec.per_class,
            channels,
            spec.temperature,
            spec.momentum,
            may_lack_classes=may_lack_classes,
        )

    @classmethod
    def of(cls, recipe: Recipe, student: Segmenter, classes: ClassTable) -> Self:
        """The branch that a recipe describes."""
        spec = recipe.method.prototypes
        return cls(
            spec,
            len(classes),
            student.feature_channels(spec.features),
            recipe.data.ignore_index,
            start=round(spec.start * recipe.train.planned_steps),
            may_lack_classes=recipe.data.missing_classes == "ignore",
        )

    def place(self, student: Segmenter, views: LabeledViews, class_names: Sequence[str], seed: int) -> None:
        """Place the prototypes, once; see `cluster_prototypes`. The first process does it for all."""
        placed = self.bank.prototypes
        if world().is_first:
            per_class = placed.shape[1]
            placed = cluster_prototypes(
                student,
                views,
                class_names,
                self.features,
                per_class,
                self.ignore_index,
                seed,
                may_lack_classes=self.bank.may_lack_classes,
            ).to(placed)
        self.bank.place(copy_of_first(placed))

    def forward(
        self,
        labeled: SegmenterOutput,
        labels: Tensor,
        strong: SegmenterOutput | None,
        pseudo: PseudoLabels | None,
        draws: StepDraws,
    ) -> dict[str, Tensor]:
        """Losses, unweighted; collects pixels for the bank.

        Args:
            labeled: the student on labelled views.
            labels: ``[Bl,H,W]`` int64.
            strong: the student on strong views; None while unlabelled images do not take part.
            pseudo: mixed like the strong views.
            draws: which pixels of which image are sampled.
        """
        samples = [self._labeled_sample(labeled, labels, draws)]
        if strong is not None and pseudo is not None:
            samples.append(self._unlabeled_sample(strong, pseudo, draws))
        features = torch.cat([sample.features for sample in samples])
        targets = torch.cat([sample.targets for sample in samples])
        scored = self.bank.cross_entropies(features, targets)
        self.bank.collect(scored, torch.cat([sample.counted for sample in samples]))
        parts = torch.split(scored.losses, [len(sample.targets) for sample in samples])
        return {sample.name: self.mean_loss(part, sample) for part, sample in zip(parts, samples, strict=True)}

    def dense_logits(self, output: SegmenterOutput) -> Tensor:
        """``[B,C,h,w]`` logits of the prototype head, float32 at least."""
        return self.bank.dense_logits(output.features(self.features))

    def blended_logits(self, output: SegmenterOutput) -> Tensor:
        """``[B,C,h,w]`` logits whose softmax is the mean of both heads' probabilities.

        The prototype head has the weight `pseudo_label_share`, the linear head the rest.
        """
        prototype = self.dense_logits(output).log_softmax(dim=1)
        linear = at_least_single(output.logits).log_softmax(dim=1)
        share = self.pseudo_label_share
        if share == 1.0:
            return prototype
        return torch.logaddexp(linear + math.log(1.0 - share), prototype + math.log(share))

    def _labeled_sample(self, output: SegmenterOutput, labels: Tensor, draws: StepDraws) -> "PixelSample":
        positions = draws.labeled_positions(*output.image_size, self.grid)
        targets = gather_values(labels, positions).flatten()
        known = targets != self.ignore_index
        features = self._features_at(output, positions)
        return PixelSample("prototype_labeled", features, torch.where(known, targets, 0), known, known)

    def _unlabeled_sample(self, output: SegmenterOutput, pseudo: PseudoLabels, draws: StepDraws) -> "PixelSample":
        positions = draws.unlabeled_positions(*output.image_size, self.grid)
        targets = gather_values(pseudo.labels, positions).flatten()
        valid = gather_values(pseudo.valid, positions).flatten()
        trusted = valid & (gather_values(pseudo.confidence, positions).flatten() >= self.threshold)
        return PixelSample("prototype_unlabeled", self._features_at(output, positions), targets, trusted, valid)

    def _features_at(self, output: SegmenterOutput, positions: Tensor) -> Tensor:
        return gather_features(output.features(self.features), positions, output.padded_size).flatten(0, 1)

    def mean_loss(self, losses: Tensor, sample: "PixelSample") -> Tensor:
        weights = sample.counted
        if self.bank.may_lack_classes:
            weights = weights & self.bank.present().any(dim=1)[sample.targets]
        if self.class_balanced:
            weights = class_balancing_weights(sample.targets, weights, len(self.bank.prototypes))
        return mean_over((losses * weights).sum(), sample.averaged_over.sum())


@dataclass(frozen=True)
class PixelSample:
    """Pixels of the labelled or of the unlabelled images, N of them."""

    name: str
    features: Tensor
    """``[N,D]``."""
    targets: Tensor
    """``[N]`` classes, also where a pixel does not count."""
    counted: Tensor
    """``[N]`` bool."""
    averaged_over: Tensor
    """``[N]`` bool, what the mean is over."""


@torch.no_grad()
def class_balancing_weights(labels: Tensor, counted: Tensor, num_classes: int) -> Tensor:
    """Weights of pixels that make every class count alike: 1/n of a class with n pixels, scaled to a mean of 1.

    The pixels of all processes are counted.

    Args:
        labels: ``[N]`` int64 in 0..C-1, also where a pixel does not count.
        counted: ``[N]`` bool.
        num_classes: C.

    Returns:
        ``[N]`` float32, 0 where a pixel does not count.
    """
    one = counted.float()
    pixels = sum_over_processes(one.new_zeros(num_classes).index_add_(0, labels, one))
    share_of_each = pixels.sum() / (pixels > 0).sum().clamp(min=1)
    return one * (share_of_each / pixels.clamp(min=1))[labels]
