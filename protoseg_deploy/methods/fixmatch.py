"""FixMatch for segmentation, with an EMA teacher by default."""

from collections.abc import Sequence

import torch
from torch import Tensor

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.methods.base import split_output
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.pseudo_labeling import PseudoLabelMethod, StrongView
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.models import Segmenter, SegmenterOutput


class FixMatch(PseudoLabelMethod):
    """Pseudo-labels of weak views supervise one strong view (Sohn et al., NeurIPS 2020)."""

    def unlabeled_losses(
        self, student: Segmenter, batch: Batch, pseudo: PseudoLabels, views: Sequence[StrongView], draws: StepDraws
    ) -> tuple[SegmenterOutput, list[SegmenterOutput], dict[str, Tensor]]:
        output = student.forward_features(torch.cat([batch.images, *(view.images for view in views)]))
        labeled, *strong = split_output(output, [len(batch.images), *(len(view.images) for view in views)])
        return labeled, strong, {"unlabeled": self.mean_consistency(strong, views)}
