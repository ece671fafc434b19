"""Cross-entropy of the prototype head, its gradient taken in the same pass.

Written out in operations of autograd the head is a dozen passes over ``[N,C,K]`` numbers each way, for features that
take two small matrix products. Only the nearest prototype of each class has a gradient, and it is known as soon as the
loss is, as in `full_size`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from protoseg_deploy.methods.single_precision import at_least_single

ABSENT = -2.0
"""In place of the cosine to a prototype that does not exist: less than any cosine, and finite."""


class PixelLosses(NamedTuple):
    """What the prototype head says of N pixels."""

    losses: Tensor
    """``[N]`` float32 cross-entropies, with gradients for the features."""
    slots: Tensor
    """``[N]`` int64 in 0..C·K-1: the nearest prototype of each pixel's own class, the first of equally near ones."""
    directions: Tensor
    """``[N,D]`` float32, the features at unit length, without a graph."""


def prototype_cross_entropy(
    features: Tensor, prototypes: Tensor, labels: Tensor, temperature: float, present: Tensor | None = None
) -> PixelLosses:
    """``CE(max_k cos(f, P_c,k) / T, label)`` of each pixel (Xu et al., NeurIPS 2022).

    Args:
        features: ``[N,D]`` of any length; in half precision they are processed in single precision.
        prototypes: ``[C,K,D]`` float32 at unit length; no gradient flows into them.
        labels: ``[N]`` int64 in 0..C-1.
        temperature: T.
        present: ``[C,K]`` bool, which prototypes exist; all of them when absent. Of a class without any the logit is
            ``ABSENT / T`` and has no gradient.
    """
    with torch.autocast(features.device.type, enabled=False):  # in bf16 close prototypes could not be told apart
        return PixelLosses(
            *_PrototypeCrossEntropy.apply(at_least_single(features), prototypes, labels, temperature, present)
        )


class _PrototypeCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, prototypes: Tensor, labels: Tensor, temperature: float, present: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        classes, per_class, channels = prototypes.shape
        pixels = len(features)
        flat = prototypes.reshape(-1, channels)
        lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=1e-12)
        directions = features / lengths
        # Pixels come last: every reduction over classes or prototypes then runs along memory.
        cosines = (flat @ directions.t()).view(classes, per_class, pixels)
        if present is not None:
            cosines = cosines.masked_fill(~present[..., None], ABSENT)
        best = cosines.amax(dim=1)
        own = cosines.gather(0, labels.view(1, 1, -1).expand(1, per_class, -1))[0]
        countdown = torch.arange(per_class, 0, -1, device=features.device)[:, None]  # as in `FullSizeLogits.winners`
        first = per_class - ((own == own.amax(dim=0)) * countdown).amax(dim=0)
        slots = labels * per_class + first.clamp(max=per_class - 1)
        log_shares = (best / temperature).log_softmax(dim=0)
        losses = -log_shares.gather(0, labels[None])[0]
        pull = log_shares.exp().scatter_add_(0, labels[None], -torch.ones_like(best[:1])).div_(temperature)
        nearest = cosines == best[:, None]
        shared = pull / nearest.sum(dim=1)  # equally near ones share the gradient
        towards = (nearest * shared[:, None]).view(-1, pixels).t() @ flat
        if present is not None:
            best = best.masked_fill(~present.any(dim=1, keepdim=True), 0.0)
        along = (pull * best).sum(dim=0)[:, None]  # a longer feature has the same cosine
        ctx.save_for_backward(towards.sub_(along * directions).div_(lengths))
        ctx.mark_non_differentiable(slots, directions)
        return losses, slots, directions

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (of_features,) = ctx.saved_tensors
        return of_features * gradient[:, None], None, None, None, None
