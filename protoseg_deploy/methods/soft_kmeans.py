"""k-means whose centres follow the points: what moves them by a rounding error moves the centres by hardly more.

k-means proper assigns each point to one centre. A point halfway between two changes sides by a rounding error, the
centres jump, more points follow, and in a cloud without gaps another optimum is reached; so does drawing the first
centres from running sums, and taking the best of several attempts that come to the same optimum in another order.
Here nothing jumps: points between two centres belong to both, and first centres are drawn by races of the points.
"""

import math

import torch
from torch import Tensor

_SOFTNESS = 0.2
"""In units of how much farther a point's second centre is than its first, on average."""
_MOST_ITERATIONS = 50
_CONVERGED = 1e-6
"""Centres that move by no more than this, in units of the points' deviation, stay where they are."""
_ALIKE = 1e-10
"""Squared distance of points of length 1 that only rounding tells apart."""


def cluster_softly(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres of clusters, in the order in which they were begun.

    ``c_k = Σ_i w_ik x_i / Σ_i w_ik`` with ``w_ik ∝ exp(-|x_i - c_k|² / τ)`` over k, and τ a fifth of the mean distance
    between ``|x_i - c|²`` of the nearest and of the second nearest centre.

    Args:
        points: ``[N,D]`` float32 or float64 on the CPU, of length about 1, N at least 1.
        count: K.
        generator: on the CPU. What is drawn from it depends on N and K alone.

    Returns:
        ``[K,D]`` of the dtype of the points; fewer than K where there are fewer points that differ.
    """
    mean = points.mean(dim=0)
    points = points - mean  # differences between directions of a narrow cone, not lost in single precision
    centres = _first_centres(points, count, generator)
    if len(centres) == 1:
        return mean[None]
    deviation = points.square().sum(dim=1).mean().sqrt()
    for _ in range(_MOST_ITERATIONS):
        moved = _weighted_means(points, centres)
        converged = (moved - centres).norm(dim=1).max() <= _CONVERGED * deviation
        centres = moved
        if converged:
            break
    return centres + mean


def _weighted_means(points: Tensor, centres: Tensor) -> Tensor:
    # The squared lengths of the points are the same for all centres and drop out.
    distances = torch.addmm(centres.square().sum(dim=1), points, centres.t(), alpha=-2)
    first, second = distances.topk(2, dim=1, largest=False).values.unbind(dim=1)
    softness = _SOFTNESS * (second - first).mean()
    tiny = torch.finfo(points.dtype).tiny
    weights = torch.softmax(-(distances - first[:, None]) / softness.clamp(min=tiny), dim=1)
    # A centre that no point is near stays where it is.
    inertia = 1e-6
    totals = weights.sum(dim=0)[:, None] + inertia
    return torch.addmm(inertia * centres, weights.t(), points) / totals


def _first_centres(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Points drawn in proportion to their squared distance from those drawn before, as by greedy k-means++.

    Arthur & Vassilvitskii, SODA 2007; of several candidates the one that leaves the smallest distances is taken. A
    point is drawn as the first to arrive, each after an exponential time whose rate is its weight: that changes only
    where two arrive at the same time but for rounding. To draw from running sums, any rounding of the sum would do.
    """
    candidates, tiny = 2 + int(math.log(count)), torch.finfo(points.dtype).tiny
    arrivals = -torch.rand(count, candidates, len(points), dtype=torch.float64, generator=generator).log()
    chosen = [points[arrivals[0, 0].argmin()]]
    distances = _squared_distances(points, chosen[0][None])[0]
    for number in range(1, count):
        if distances.max() <= _ALIKE:
            break
        drawn = points[(arrivals[number] / distances.clamp(min=tiny)).argmin(dim=1)]
        left = torch.minimum(distances, _squared_distances(points, drawn))
        best = left.sum(dim=1, dtype=torch.float64).argmin()
        chosen.append(drawn[best])
        distances = left[best]
    return torch.stack(chosen)


def _squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """``[K,N]``, without the cancellation that products of points and centres suffer from."""
    return torch.cdist(centres, points, compute_mode="donot_use_mm_for_euclid_dist").square()
