"""Distillation as a method: a finished teacher supervises a student on labelled and unlabelled images."""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.distributed import mean_over
from protoseg_deploy.methods import Method, PrototypeBank, StepResult
from protoseg_deploy.methods.base import split_output
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import ClassTable, Distill, Features, Recipe


class FrozenTeacher:
    """A finished network and, where the target wants them, its prototypes. Not a part of the student's checkpoint.

    Args:
        network: in eval mode, without gradients.
        target: ``linear``, ``prototype`` or ``mean``.
        bank: the teacher's prototypes; needed unless the target is ``linear``.
        features: where they live.
    """

    def __init__(
        self, network: Segmenter, target: str, bank: PrototypeBank | None, features: Features = "head_input"
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.target = target
        self.bank = bank
        self.features = features

    @torch.no_grad()
    def logits(self, images: Tensor, temperature: float) -> Tensor:
        """``[B,C,h,w]`` float32, whose softmax at `temperature` is the target."""
        output = self.network.forward_features(images)
        linear = output.logits.float()
        if self.bank is None or self.target == "linear":
            return linear
        prototype = self.bank.dense_logits(output.features(self.features))
        if self.target == "prototype":
            return prototype
        mean = 0.5 * ((linear / temperature).softmax(dim=1) + (prototype / temperature).softmax(dim=1))
        return mean.clamp(min=1e-12).log() * temperature


class Distillation(Method):
    """``L = w_y · CE + w_kl · KL + w_cwd · CWD``.

    Cross-entropy on labelled images; Kullback-Leibler divergence at a temperature (Hinton et al., 2015) and
    channel-wise distillation (Shu et al., ICCV 2021) on labelled weak views and on views of unlabelled images, at the
    student's stride. ``distill.unlabeled_view`` says which: with ``weak`` and ``strong`` teacher and student see the
    very same pixels (Beyer et al., CVPR 2022), with ``weak_to_strong`` only the student's are augmented.
    """

    verb = "distill"
    average_name = "average"  # the teacher is another network

    def __init__(self, recipe: Recipe, student: Segmenter, classes: ClassTable, teacher: FrozenTeacher) -> None:
        super().__init__(recipe, student, classes)
        self.name = "distillation"
        self.frozen_teacher = teacher
        self.uses_unlabeled = recipe.data.unlabeled.is_set

    def step(self, student: Segmenter, teacher: Segmenter, batch: Batch, step: int) -> StepResult:
        spec = self.recipe.distill
        shown = torch.cat([batch.images, batch.weak if spec.unlabeled_view == "weak" else batch.strong[0]])
        judged = torch.cat([batch.images, batch.strong[0] if spec.unlabeled_view == "strong" else batch.weak])
        seen = torch.cat([torch.ones_like(batch.labels, dtype=torch.bool), batch.valid])
        output = student.forward_features(shown)
        target = self.frozen_teacher.logits(judged, spec.temperature)
        labeled, _ = split_output(output, [len(batch.images), len(batch.weak)])
        losses = {name: spec.label_weight * loss for name, loss in self.labeled_losses(labeled, batch.labels).items()}
        return StepResult({**losses, **_imitation(output.logits.float(), target, seen, spec)})


def _imitation(logits: Tensor, target: Tensor, seen: Tensor, spec: Distill) -> dict[str, Tensor]:
    size = logits.shape[-2:]
    if target.shape[-2:] != size:
        target = F.interpolate(target, size=size, mode="bilinear", align_corners=False)
    mask = F.interpolate(seen[:, None].float(), size=size)
    return {
        "kl": spec.kl_weight * pixel_divergence(logits, target, mask[:, 0], spec.temperature),
        "channel": spec.channel_weight * channel_divergence(logits, target, mask, spec.channel_temperature),
    }


def pixel_divergence(logits: Tensor, target: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """``T² · KL(softmax(target/T) ‖ softmax(logits/T))``, averaged over the pixels of the mask.

    Args:
        logits: ``[B,C,h,w]`` of the student.
        target: ``[B,C,h,w]`` logits of the teacher.
        mask: ``[B,h,w]`` float, 1 where a pixel counts.
        temperature: T.
    """
    divergence = F.kl_div(
        (logits / temperature).log_softmax(dim=1),
        (target / temperature).log_softmax(dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    return temperature**2 * mean_over((divergence * mask).sum(), mask.sum())


def channel_divergence(logits: Tensor, target: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """``T² · KL`` between softmaxes over the positions of each class channel, averaged over classes and images.

    Args:
        logits: ``[B,C,h,w]`` of the student.
        target: ``[B,C,h,w]`` logits of the teacher.
        mask: ``[B,1,h,w]`` float, 1 where a position counts.
        temperature: T.
    """
    outside = (1.0 - mask) * -1e4
    student = (logits / temperature + outside).flatten(2).log_softmax(dim=-1)
    teacher = (target / temperature + outside).flatten(2).log_softmax(dim=-1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * divergence.mean()
