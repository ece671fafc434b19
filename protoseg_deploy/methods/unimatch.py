"""UniMatch and its second version: two strong views, and features perturbed by dropping channels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.methods.base import split_output
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.pseudo_labeling import PseudoLabelMethod, StrongView
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.models import Segmenter, SegmenterOutput

_DROPPED = 0.5
"""Share of channels that is dropped; what is left is scaled up accordingly."""


class UniMatch(PseudoLabelMethod):
    """Two strong views and a perturbed view of the features (Yang et al., CVPR 2023).

    ``L = L_labeled + λ_u · [½ · ½ (L_strong1 + L_strong2) + ½ L_features]``: the published weights ½, ⅛, ⅛ and ¼,
    multiplied by two, which here is part of the learning rate. ``L_features`` is the consistency of the student on
    weak views, half of the channels that the decoder gets dropped. As published pseudo-labels are the student's own:
    ``method.ema_teacher: false``.
    """

    strong_views = 2

    def unlabeled_losses(
        self, student: Segmenter, batch: Batch, pseudo: PseudoLabels, views: Sequence[StrongView], draws: StepDraws
    ) -> tuple[SegmenterOutput, list[SegmenterOutput], dict[str, Tensor]]:
        groups = [batch.images, batch.weak, *(view.images for view in views)]
        dropped = draws.dropped_channels(student.backbone.channels, _DROPPED)
        weights = [
            torch.cat([_ones(batch.images, level), _kept(level), *(_ones(view.images, level) for view in views)])
            for level in dropped
        ]
        output = student.forward_features(torch.cat(groups), weights)
        labeled, perturbed, *strong = split_output(output, [len(group) for group in groups])
        losses = {
            "unlabeled": 0.5 * self.mean_consistency(strong, views),
            "features": 0.5 * self.consistency(FullSizeLogits.of(perturbed), pseudo),
        }
        return labeled, strong, losses


class UniMatchV2(PseudoLabelMethod):
    """Two strong views whose features drop complementary channels (Yang et al., TPAMI 2025).

    ``L = L_labeled + λ_u · ½ (L_strong1 + L_strong2)``. What one view keeps of the channels the other drops; a random
    half of the images keeps all of them. Pseudo-labels come from the moving average.
    """

    strong_views = 2

    def unlabeled_losses(
        self, student: Segmenter, batch: Batch, pseudo: PseudoLabels, views: Sequence[StrongView], draws: StepDraws
    ) -> tuple[SegmenterOutput, list[SegmenterOutput], dict[str, Tensor]]:
        groups = [batch.images, *(view.images for view in views)]
        whole = draws.half_of_the_images()[:, None]
        weights = []
        for level in draws.dropped_channels(student.backbone.channels, _DROPPED):
            one, other = (torch.where(whole, 1.0, _kept(dropped)) for dropped in (level, ~level))
            weights.append(torch.cat([_ones(batch.images, level), one, other]))
        output = student.forward_features(torch.cat(groups), weights)
        labeled, *strong = split_output(output, [len(group) for group in groups])
        return labeled, strong, {"unlabeled": self.mean_consistency(strong, views)}


def _ones(images: Tensor, level: Tensor) -> Tensor:
    return torch.ones(len(images), level.shape[1], device=level.device)


def _kept(dropped: Tensor) -> Tensor:
    return (~dropped).float() / (1.0 - _DROPPED)
