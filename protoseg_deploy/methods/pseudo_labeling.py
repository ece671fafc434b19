"""What all methods have in common that learn from pseudo-labels: whose they are, which are trusted, and when.

Any of them may carry the prototype branch.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.methods.alignment import DistributionAlignment
from protoseg_deploy.methods.base import Method, StepResult
from protoseg_deploy.methods.branch import PrototypeBranch
from protoseg_deploy.methods.clustering import LabeledViews
from protoseg_deploy.methods.cutmix import CutMix
from protoseg_deploy.methods.draws import StepDraws
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.terms import (
    PseudoLabels,
    SoftLabels,
    confident_labels,
    consistency,
    low_entropy_labels,
    share,
)
from protoseg_deploy.models import Segmenter, SegmenterOutput
from protoseg_deploy.recipe import ClassTable, Recipe
from protoseg_deploy.seeds import Purpose, derived_seed


@dataclass(frozen=True)
class StrongView:
    """A strong view after CutMix."""

    images: Tensor
    """``[Bu,3,S,S]`` uint8."""
    pseudo: PseudoLabels
    """Cut and pasted alike."""
    cutmix: CutMix
    """What did both."""


class PseudoLabelMethod(Method):
    """Pseudo-labels of the weak views of unlabelled images supervise other views of them.

    ``L = L_labeled + λ_u(t) · L_unlabeled``; the factor of one half of public implementations is part of the learning
    rate here. What ``L_unlabeled`` is, a method says in `unlabeled_losses`. With the prototype branch
    ``+ λ_p · (L_proto_labeled + L_proto_unlabeled)`` (Xu et al., NeurIPS 2022). A branch of weight 0 is not built at
    all, so that ``prototype`` then equals ``fixmatch`` step for step.
    """

    uses_unlabeled = True

    def __init__(self, recipe: Recipe, student: Segmenter, classes: ClassTable) -> None:
        super().__init__(recipe, student, classes)
        self.mixes_views = recipe.method.cutmix_probability > 0
        aligned = recipe.method.distribution_alignment
        self.alignment = DistributionAlignment(len(classes)) if aligned else None
        self.branch = PrototypeBranch.of(recipe, student, classes) if recipe.method.has_prototypes else None

    def prepare(self, student: Segmenter, step: int, labeled_views: LabeledViews) -> None:
        """Place the prototypes once the supervised phase is over."""
        if self.branch is not None and step == self.branch.start:
            seed = derived_seed(self.recipe.train.seed, Purpose.CLUSTERS)
            self.branch.place(student, labeled_views, self.classes.names, seed)

    def step(self, student: Segmenter, teacher: Segmenter, batch: Batch, step: int) -> StepResult:
        ramp = self._unlabeled_ramp(step)
        self.count_labels(batch.labels)
        draws = StepDraws(self.recipe.train, batch, step)
        views: list[StrongView] = []
        strong: list[SegmenterOutput] = []
        if ramp == 0.0:
            labeled = student.forward_features(batch.images)
            result = StepResult(self.labeled_losses(labeled, batch.labels))
        else:
            pseudo = self.pseudo_labels(teacher, batch, step)
            if self.adjustment is not None:
                self.adjustment.pseudo_labels.collect(pseudo.labels, pseudo.trusted)
            views = [self._strong_view(batch, pseudo, draws, number) for number in range(self.strong_views)]
            labeled, strong, losses = self.unlabeled_losses(student, batch, pseudo, views, draws)
            result = StepResult(self.labeled_losses(labeled, batch.labels))
            weight = ramp * self.recipe.method.unlabeled_weight
            result.losses |= {name: weight * loss for name, loss in losses.items()}
            result.monitors["confident_share"] = share(pseudo.trusted, pseudo.valid)
        if self.branch is not None and step >= self.branch.start:
            first = (strong[0], views[0].pseudo) if views else (None, None)
            for name, loss in self.branch(labeled, batch.labels, *first, draws).items():
                result.losses[name] = self.branch.weight * (ramp if name == "prototype_unlabeled" else 1.0) * loss
        return result

    @abstractmethod
    def unlabeled_losses(
        self, student: Segmenter, batch: Batch, pseudo: PseudoLabels, views: Sequence[StrongView], draws: StepDraws
    ) -> tuple[SegmenterOutput, list[SegmenterOutput], dict[str, Tensor]]:
        """What a method makes of unlabelled images, in the same forward pass as the labelled ones.

        Args:
            student: in training mode.
            batch: labelled images and weak views.
            pseudo: of the weak views.
            views: as many as the method has `strong_views`.
            draws: the random numbers of the step.

        Returns:
            The student's outputs on labelled images and on each strong view, and losses before their common weight.
        """

    def consistency(self, logits: FullSizeLogits, pseudo: PseudoLabels) -> Tensor:
        """`terms.consistency` of a head, its logits adjusted. Probabilities are compared as they are: both sides are
        those of a network that has not learned class frequencies."""
        if self.adjustment is not None and pseudo.soft is None:
            logits = self.adjustment.for_pseudo_labels(logits)
        return consistency(logits, pseudo)

    def mean_consistency(self, strong: Sequence[SegmenterOutput], views: Sequence[StrongView]) -> Tensor:
        """The consistency of the student on its strong views, averaged over views."""
        pairs = zip(strong, views, strict=True)
        return torch.stack([self.consistency(FullSizeLogits.of(output), view.pseudo) for output, view in pairs]).mean()

    def _strong_view(self, batch: Batch, pseudo: PseudoLabels, draws: StepDraws, number: int) -> StrongView:
        _, height, width = pseudo.labels.shape
        cutmix = draws.cutmix(height, width, self.recipe.method.cutmix_probability, number)
        return StrongView(cutmix(batch.strong[number]), pseudo.mixed(cutmix), cutmix)

    def prototypes(self) -> Tensor | None:
        if self.branch is None or not self.branch.bank.initialised:
            return None
        return self.branch.bank.prototypes

    def take_diagnostics(self) -> dict[str, list[float]]:
        if self.branch is None or not self.branch.bank.initialised:
            return {}
        return self.branch.bank.take_diagnostics()

    @torch.no_grad()
    def pseudo_labels(self, teacher: Segmenter, batch: Batch, step: int) -> PseudoLabels:
        spec = self.recipe.method
        output = _evaluated(teacher, batch.weak)
        logits = FullSizeLogits.of(output)
        if self.branch is not None and self.branch.pseudo_label_share and step >= self.branch.start:
            logits = replace(logits, coarse=self.branch.blended_logits(output))
        if self.alignment is not None:
            logits = self.alignment(logits, batch.valid, batch.labels, self.recipe.data.ignore_index)
        pseudo = self._filtered(logits, batch, step)
        return replace(pseudo, soft=SoftLabels(logits)) if spec.soft_labels else pseudo

    def _filtered(self, logits: FullSizeLogits, batch: Batch, step: int) -> PseudoLabels:
        """Labels of the weak views, with those that are to be trusted."""
        spec = self.recipe.method
        if spec.pseudo_label_filter == "entropy":
            left = max(0.0, 1.0 - step / self.recipe.train.planned_steps)
            return low_entropy_labels(logits, batch.valid, spec.entropy_drop_share * left)
        return confident_labels(logits, batch.valid, spec.confidence_threshold)

    def _unlabeled_ramp(self, step: int) -> float:
        """0 before unlabelled images join, then rising to 1."""
        spec, steps = self.recipe.method, self.recipe.train.planned_steps
        begin, length = spec.unlabeled_start * steps, spec.unlabeled_ramp * steps
        if step < begin:
            return 0.0
        return min(1.0, (step - begin + 1) / length) if length else 1.0


def _evaluated(teacher: Segmenter, images: Tensor) -> SegmenterOutput:
    """A teacher's output in evaluation mode. A moving average is in it already; setting it walks over all layers."""
    if not teacher.training:
        return teacher.forward_features(images)
    teacher.eval()
    output = teacher.forward_features(images)
    teacher.train()
    return output
