"""The correlation head: which positions of an image belong together, and labels that spread among those that do.

Source: Sun et al., "CorrMatch: Label Propagation via Correlation Matching for Semi-Supervised Semantic Segmentation",
CVPR 2024.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.methods.enlarging import Size
from protoseg_deploy.methods.full_size import FullSizeLogits, each_piece
from protoseg_deploy.methods.single_precision import at_least_single
from protoseg_deploy.methods.terms import PseudoLabels
from protoseg_deploy.models import SegmenterOutput

_CHANNELS = 256
_GROUPS = 32
_MOST_POSITIONS = 51 * 51
"""A crop of 801 at stride 16. A matrix of that many positions has 27 MB an image; at stride 8 it would have 416."""


@dataclass(frozen=True)
class Correlation:
    """What the correlation head says of a batch."""

    matrix: Tensor
    """``[B,N,N]`` float32, each row a softmax: how a position spreads its logits over all positions."""
    grid: Size
    """h and w, with N = h·w."""
    logits: FullSizeLogits
    """Of the linear head, detached, after they have spread: only the matrix learns from their losses."""


class CorrelationHead(nn.Module):
    """``A = softmax(f1ᵀ f2 / √C)`` over positions, with two projections to C channels of the backbone's deepest map.

    Maps of more positions than a crop of 801 has at stride 16 are averaged before. Where the paper normalises over the
    batch, this head normalises groups of channels of each image: it computes the same however a batch is spread over
    processes, and has no statistics that nobody would ever use.

    Args:
        channels: of the backbone's deepest map.
        num_classes: C.
        dropout: of channels before the two projections.
    """

    def __init__(self, channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels, _CHANNELS, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, _CHANNELS),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
        )
        self.givers = nn.Conv2d(_CHANNELS, num_classes, 1)
        self.takers = nn.Conv2d(_CHANNELS, num_classes, 1)

    def forward(self, output: SegmenterOutput) -> Correlation:
        """Correlate the positions of each image, and spread its logits."""
        deepest = output.pyramid[-1]
        factor = math.ceil(math.sqrt(deepest.shape[-2] * deepest.shape[-1] / _MOST_POSITIONS))
        features = self.project(F.avg_pool2d(deepest, factor, ceil_mode=True) if factor > 1 else deepest)
        grid = (features.shape[-2], features.shape[-1])
        givers, takers = (at_least_single(side(features)).flatten(2) for side in (self.givers, self.takers))
        with torch.autocast(features.device.type, enabled=False):
            matrix = (givers.transpose(1, 2) @ takers / math.sqrt(givers.shape[1])).softmax(dim=-1)
            logits = at_least_single(output.logits.detach())
            spread: Tensor = F.adaptive_avg_pool2d(logits, grid).flatten(2) @ matrix
        spread_logits = replace(FullSizeLogits.of(output), coarse=spread.view(*spread.shape[:2], *grid))
        return Correlation(matrix, grid, spread_logits)


@torch.no_grad()
def propagate_regions(
    pseudo: PseudoLabels, correlation: Correlation, positions: Tensor, threshold: Tensor
) -> PseudoLabels:
    """Pseudo-labels of pixels spread to the regions they lie in.

    The row of a position, upsampled to the image and thresholded halfway between its smallest and its largest value, is
    a region without a class. A region whose trusted pixels are at least `threshold` of it, and of those more than
    `threshold` of one class, takes that class as a whole and is trusted. All regions are evaluated on the original
    labels; where several that pass overlap the last one holds.

    Args:
        pseudo: of B images.
        correlation: of the same images.
        positions: ``[B,M]`` int64, from which positions regions grow.
        threshold: scalar.

    Returns:
        With other labels and more trusted pixels; confidence and validity are what they were.
    """
    batch, regions = positions.shape
    classes = correlation.logits.coarse.shape[1]
    rows = correlation.matrix.gather(1, positions[..., None].expand(-1, -1, correlation.matrix.shape[-1]))
    coarse = rows.view(batch, regions, *correlation.grid)
    order = torch.arange(1, regions + 1, device=rows.device)

    def spread(part: slice, full: Tensor) -> tuple[Tensor, Tensor]:
        inside = full.flatten(2)
        halfway = (inside.amin(dim=2, keepdim=True) + inside.amax(dim=2, keepdim=True)) / 2
        inside.gt_(halfway).mul_(pseudo.valid[part].flatten(1)[:, None])
        labels, trusted = pseudo.labels[part].flatten(1), pseudo.trusted[part].flatten(1)
        one_hot = inside.new_zeros(len(labels), classes, labels.shape[1])
        one_hot.scatter_(1, labels[:, None], trusted[:, None].to(inside.dtype))
        counts = inside @ one_hot.transpose(1, 2)
        most, winners = counts.max(dim=2)
        known, pixels = counts.sum(dim=2), inside.sum(dim=2)
        passes = (known > 0) & (known >= threshold * pixels) & (most > threshold * known)
        last = inside.mul_((order * passes)[..., None]).amax(dim=1).long()
        taken = last > 0
        spread_labels = torch.where(taken, winners.gather(1, (last - 1).clamp(min=0)), labels)
        return spread_labels.view_as(pseudo.labels[part]), (trusted | taken).view_as(pseudo.trusted[part])

    with torch.autocast(rows.device.type, enabled=False):  # counts of pixels
        sizes = correlation.logits.padded_size, correlation.logits.image_size
        labels, trusted = zip(*each_piece(coarse, *sizes, spread), strict=True)
    return replace(pseudo, labels=torch.cat(labels), trusted=torch.cat(trusted))
