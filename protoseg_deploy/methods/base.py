"""What a method is: given student, teacher and a batch, the losses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.methods.clustering import LabeledViews
from protoseg_deploy.methods.full_size import FullSizeLogits
from protoseg_deploy.methods.logit_adjustment import LogitAdjustment
from protoseg_deploy.methods.statistics import StepStatistics
from protoseg_deploy.methods.terms import labeled_cross_entropy
from protoseg_deploy.models import Segmenter, SegmenterOutput
from protoseg_deploy.recipe import ClassTable, Recipe


@dataclass
class StepResult:
    """Losses of one step, on the device, not yet read by the host."""

    losses: dict[str, Tensor]
    """Scalars that are added up to the loss, already weighted."""
    monitors: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars for the log."""

    def total(self) -> Tensor:
        return torch.stack(list(self.losses.values())).sum()


class Method(nn.Module, ABC):
    """Training-only state (heads, banks) and the losses of one step.

    Parameters of a method are trained with the heads' learning rate; its buffers travel in checkpoints. Nothing of it
    reaches an export.
    """

    name: str
    """As it is written into network files and summaries."""
    verb: str = "train"
    """Of the command line, that trains by it."""
    average_name: str = "teacher"
    """What log lines call the moving average of the student."""
    uses_unlabeled: bool
    strong_views: int = 1
    """Of each unlabelled image in a batch."""
    mixes_views: bool = False
    """Whether CutMix takes partners two by two, for which every part of a batch has to hold pairs."""

    def __init__(self, recipe: Recipe, student: Segmenter, classes: ClassTable) -> None:
        super().__init__()
        self.recipe = recipe
        self.name = recipe.method.name
        self.classes = classes
        weight = recipe.train.auxiliary_weight
        self.auxiliary_head = _auxiliary_head(student) if weight else None
        strength = recipe.train.logit_adjustment
        self.adjustment = LogitAdjustment(student.num_classes, strength) if strength else None

    @abstractmethod
    def step(self, student: Segmenter, teacher: Segmenter, batch: Batch, step: int) -> StepResult:
        """Losses on one batch.

        Args:
            student: in training mode; the only network that gets gradients.
            teacher: where pseudo-labels come from; the student itself where there is no moving average.
            batch: on the device of the networks.
            step: counted from 0.
        """

    def prepare(self, student: Segmenter, step: int, labeled_views: LabeledViews) -> None:
        """Called before each step; most methods have nothing to do."""

    def commit(self, taken: Tensor) -> None:
        """Called once after each step; statistics of all heads take over what its passes collected.

        Args:
            taken: scalar bool on the device; false where the step was skipped.
        """
        for module in self.modules():
            if isinstance(module, StepStatistics):
                module.commit(taken)

    def take_diagnostics(self) -> dict[str, list[float]]:
        """Figures per class since the last call, taken at each evaluation."""
        return {}

    def prototypes(self) -> Tensor | None:
        """``[C,K,D]`` prototypes, where the method has them by now."""
        return None

    def labeled_losses(self, output: SegmenterOutput, labels: Tensor) -> dict[str, Tensor]:
        """Supervised cross-entropy of the linear head, and of the auxiliary head where there is one."""
        spec, ignore_index = self.recipe.train, self.recipe.data.ignore_index
        share_of_batch = len(labels) / spec.batch_labeled
        logits = self.adjusted(FullSizeLogits.of(output))
        losses = {"labeled": labeled_cross_entropy(logits, labels, ignore_index, spec.ohem, share_of_batch)}
        if self.auxiliary_head is not None:
            logits = self.adjusted(replace(logits, coarse=self.auxiliary_head(output.pyramid[-2])))
            auxiliary = labeled_cross_entropy(logits, labels, ignore_index, spec.ohem, share_of_batch)
            losses["auxiliary"] = spec.auxiliary_weight * auxiliary
        return losses

    def count_labels(self, labels: Tensor) -> None:
        """Let class frequencies that losses depend on include the labels of this step; before its losses."""
        if self.adjustment is not None:
            self.adjustment.labels.collect(labels, labels != self.recipe.data.ignore_index)

    def adjusted(self, logits: FullSizeLogits) -> FullSizeLogits:
        """What a labelled loss sees in place of a head's logits."""
        return logits if self.adjustment is None else self.adjustment.for_labels(logits)


class Supervised(Method):
    """Labelled images only: the floor every comparison stands on."""

    uses_unlabeled = False

    def step(self, student: Segmenter, teacher: Segmenter, batch: Batch, step: int) -> StepResult:
        self.count_labels(batch.labels)
        return StepResult(self.labeled_losses(student.forward_features(batch.images), batch.labels))


def split_output(output: SegmenterOutput, counts: Sequence[int]) -> list[SegmenterOutput]:
    """The outputs of one forward pass over several groups of images, apart again.

    Args:
        output: of all of them.
        counts: images in each group.
    """
    # Gradients of slices would be filled up with zeros and added; those of a split are put side by side.
    maps = (output.logits, output.embedding, output.head_input, *output.pyramid)
    groups = zip(*(torch.split(values, list(counts)) for values in maps), strict=True)
    return [
        SegmenterOutput(logits, embedding, head_input, pyramid, output.image_size, output.padded_size)
        for logits, embedding, head_input, *pyramid in groups
    ]


def _auxiliary_head(student: Segmenter) -> nn.Sequential:
    channels = student.backbone.channels[-2]
    return nn.Sequential(
        Conv2dNormActivation(channels, 256, 3), nn.Dropout2d(0.1), nn.Conv2d(256, student.num_classes, 1)
    )
