"""CorrMatch: labels spread over an image by how its positions correlate."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.distributed import mean_over
from protoseg_deploy.methods.base import StepResult, split_output
from protoseg_deploy.methods.correlation import CorrelationHead, propagate_regions
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.dynamic_threshold import DynamicThreshold
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.pseudo_labeling import PseudoLabelMethod, StrongView
from protoseg_deploy.methods.terms import PseudoLabels, SoftLabels, labeled_cross_entropy
from protoseg_deploy.models import Segmenter, SegmenterOutput
from protoseg_deploy.recipe import ClassTable, Recipe

REGIONS = 128
"""An image grows this many regions a step."""
_DROPPED = 0.5
"""Share of the decoder's input channels that is dropped; what is left is scaled up accordingly."""


class CorrMatch(PseudoLabelMethod):
    """Pseudo-labels spread along correlations, pixel by pixel and region by region (Sun et al., CVPR 2024).

    ``L = ½ (L_labeled + L_labeled,corr) + λ_u · [¼ (L_strong + L_KL + L_features) + ⅛ (L_strong,corr + L_weak,corr)]``:
    the published loss times two, which here is part of the learning rate. The terms with `corr` are those of logits
    that the correlation head has spread; that head exists in training only. The strong view
    learns from pseudo-labels that have spread to regions (`propagate_regions`), everything else from plain ones.
    ``L_KL`` draws the student's prediction on a strong view towards its own on the weak one where the pseudo-label is
    trusted; ``L_features`` is the consistency on weak views, half of the channels that the decoder gets dropped.
    ``method.confidence_threshold`` is where the threshold starts from (published: 0.85), see `DynamicThreshold`. As
    published pseudo-labels are the student's own: ``method.ema_teacher: false``.

    Unlike the authors' code, regions are evaluated before CutMix, so that a pasted box has the regions of the image it
    comes from, and the target of ``L_KL`` is cut and pasted like the strong view.
    """

    def __init__(self, recipe: Recipe, student: Segmenter, classes: ClassTable) -> None:
        super().__init__(recipe, student, classes)
        self.correlation = CorrelationHead(student.backbone.channels[-1], student.num_classes, recipe.model.dropout)
        self.threshold = DynamicThreshold(student.num_classes, recipe.method.confidence_threshold)

    def step(self, student: Segmenter, teacher: Segmenter, batch: Batch, step: int) -> StepResult:
        result = super().step(student, teacher, batch, step)
        result.monitors["confidence_threshold"] = self.threshold.value.clone()
        return result

    def labeled_losses(self, output: SegmenterOutput, labels: Tensor) -> dict[str, Tensor]:
        losses = super().labeled_losses(output, labels)
        logits = self.adjusted(self.correlation(output).logits)
        spec, share = self.recipe.train, len(labels) / self.recipe.train.batch_labeled
        spread = labeled_cross_entropy(logits, labels, self.recipe.data.ignore_index, spec.ohem, share)
        return losses | {"labeled": 0.5 * losses["labeled"], "labeled_correlation": 0.5 * spread}

    def unlabeled_losses(
        self, student: Segmenter, batch: Batch, pseudo: PseudoLabels, views: Sequence[StrongView], draws: StepDraws
    ) -> tuple[SegmenterOutput, list[SegmenterOutput], dict[str, Tensor]]:
        (view,) = views
        groups = [batch.images, batch.weak, view.images]
        output = student.forward_features(torch.cat(groups))
        labeled, weak, strong = split_output(output, [len(group) for group in groups])
        perturbed = self._perturbed(student, weak, draws)
        of_weak, of_strong = self.correlation(weak), self.correlation(strong)
        positions = draws.region_positions(REGIONS, of_weak.matrix.shape[-1])
        regional = propagate_regions(pseudo, of_weak, positions, self.threshold.value).mixed(view.cutmix)
        spread = self.consistency(of_strong.logits, regional) + self.consistency(of_weak.logits, pseudo)
        losses = {
            "unlabeled": 0.25 * self.consistency(FullSizeLogits.of(strong), regional),
            "divergence": 0.25 * _divergence(FullSizeLogits.of(strong), FullSizeLogits.of(weak), view),
            "features": 0.25 * self.consistency(FullSizeLogits.of(perturbed), pseudo),
            "correlation": 0.125 * spread,
        }
        return labeled, [strong], losses

    def pseudo_labels(self, teacher: Segmenter, batch: Batch, step: int) -> PseudoLabels:
        pseudo = super().pseudo_labels(teacher, batch, step)
        self.threshold.collect(pseudo)
        return replace(pseudo, trusted=pseudo.valid & (pseudo.confidence >= self.threshold.value))

    def _perturbed(self, student: Segmenter, weak: SegmenterOutput, draws: StepDraws) -> SegmenterOutput:
        """Weak views once more through the decoder, without the channels that are dropped."""
        dropped = draws.dropped_channels([level.shape[1] for level in weak.pyramid], _DROPPED)
        pyramid = [
            level * ((~channels).to(level.dtype) / (1.0 - _DROPPED))[..., None, None]
            for level, channels in zip(weak.pyramid, dropped, strict=True)
        ]
        return student.decode(pyramid, weak.image_size, weak.padded_size)


def _divergence(strong: FullSizeLogits, weak: FullSizeLogits, view: StrongView) -> Tensor:
    """``KL(weak ‖ strong)`` at trusted pixels, averaged over valid ones."""
    return mean_over(SoftLabels(weak, view.cutmix).divergence(strong, view.pseudo.trusted), view.pseudo.valid.sum())
