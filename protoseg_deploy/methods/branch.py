"""The prototype branch: a second head on the same features that exists in training only.

It can be put on any method that has labelled and strong-view outputs: see `FixMatch`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.distributed import mean_over, sum_over_processes
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.prototypes import PrototypeBank, gather_features, gather_values
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.models import SegmenterOutput
from protoseg_deploy.recipe import Prototypes


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
    """

    def __init__(self, spec: Prototypes, num_classes: int, channels: int, ignore_index: int) -> None:
        super().__init__()
        self.weight = spec.weight
        self.features = spec.features
        self.threshold = spec.confidence_threshold
        self.grid = spec.grid
        self.class_balanced = spec.class_balanced
        self.ignore_index = ignore_index
        self.bank = PrototypeBank(num_classes, spec.per_class, channels, spec.temperature, spec.momentum)

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
        positions = draws.labeled_positions(*labeled.image_size, self.grid)
        features = self._features_at(labeled, positions)
        targets = gather_values(labels, positions).flatten()
        similarities = self.bank.similarities(features)
        known = targets != self.ignore_index
        losses = {"prototype_labeled": self._loss(similarities, targets, known, known)}
        counted = known
        if strong is not None and pseudo is not None:
            positions = draws.unlabeled_positions(*strong.image_size, self.grid)
            more = self._features_at(strong, positions)
            pseudo_targets = gather_values(pseudo.labels, positions).flatten()
            valid = gather_values(pseudo.valid, positions).flatten()
            trusted = valid & (gather_values(pseudo.confidence, positions).flatten() >= self.threshold)
            more_similarities = self.bank.similarities(more)
            losses["prototype_unlabeled"] = self._loss(more_similarities, pseudo_targets, trusted, valid)
            features = torch.cat([features, more])
            similarities = torch.cat([similarities, more_similarities])
            targets, counted = torch.cat([targets, pseudo_targets]), torch.cat([counted, trusted])
        self.bank.collect(features, similarities.detach(), targets, counted)
        return losses

    def _features_at(self, output: SegmenterOutput, positions: Tensor) -> Tensor:
        return gather_features(output.features(self.features), positions, output.padded_size).flatten(0, 1)

    def _loss(self, similarities: Tensor, targets: Tensor, counted: Tensor, averaged_over: Tensor) -> Tensor:
        safe = torch.where(counted, targets, 0)
        losses = F.cross_entropy(self.bank.logits(similarities), safe, reduction="none")
        weights = class_balancing_weights(safe, counted, len(self.bank.prototypes)) if self.class_balanced else counted
        return mean_over((losses * weights).sum(), averaged_over.sum())


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
