"""The prototype bank: several appearances per class, learned without gradients.

Source: Xu et al., "Semi-supervised Semantic Segmentation with Prototype-based Consistency Regularization",
NeurIPS 2022. A class owns K prototypes; a pixel is scored by the most similar one, and moves the most similar one of
its own class. Prototypes are kept at unit length: similarity is a cosine, so their length carries nothing.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.distributed import sum_over_processes
from protoseg_deploy.methods.prototype_loss import ABSENT, PixelLosses, prototype_cross_entropy
from protoseg_deploy.methods.single_precision import at_least_single
from protoseg_deploy.methods.statistics import StepStatistics


class PrototypeBank(StepStatistics):
    """``[C,K,D]`` prototypes with their statistics; all of it buffers, so all of it is in a checkpoint.

    Args:
        num_classes: C.
        per_class: K.
        channels: D.
        temperature: cosines are divided by it before the softmax.
        momentum: share of itself a prototype keeps at an update.
        may_lack_classes: a prototype may be absent, which is one of zeros. It is farther from everything than any other
            and never the nearest, until pixels of its class move it.
    """

    prototypes: Tensor
    initialised: Tensor
    pixels: Tensor
    idle_steps: Tensor

    def __init__(
        self,
        num_classes: int,
        per_class: int,
        channels: int,
        temperature: float = 0.1,
        momentum: float = 0.99,
        *,
        may_lack_classes: bool = False,
    ) -> None:
        super().__init__()
        self._collected: Tensor | None = None
        self.temperature = temperature
        self.momentum = momentum
        self.may_lack_classes = may_lack_classes
        self.register_buffer("prototypes", torch.zeros(num_classes, per_class, channels))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.register_buffer("pixels", torch.zeros(num_classes, per_class))
        self.register_buffer("idle_steps", torch.zeros(num_classes, per_class, dtype=torch.int64))

    def place(self, prototypes: Tensor) -> None:
        """Set all prototypes, ``[C,K,D]`` of any length."""
        prototypes = prototypes.to(self.prototypes)
        self.prototypes.copy_(F.normalize(prototypes, dim=-1))
        self.pixels.zero_()
        self.idle_steps.zero_()
        self.initialised.fill_(True)

    def present(self) -> Tensor:
        """``[C,K]`` bool: which prototypes there are."""
        return self.prototypes.any(dim=-1)

    def logits(self, features: Tensor) -> Tensor:
        """``[N,D]`` features to ``[N,C]`` logits: the nearest prototype of each class represents it."""
        # In bf16 prototypes close to each other could not be told apart.
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.normalize(at_least_single(features), dim=-1) @ self.prototypes.flatten(0, 1).t()
            if self.may_lack_classes:
                cosines = cosines.masked_fill(~self.present().flatten(), ABSENT)
        return cosines.view(-1, *self.prototypes.shape[:2]).amax(dim=-1) / self.temperature

    def dense_logits(self, embedding: Tensor) -> Tensor:
        """``[B,D,h,w]`` embedding to ``[B,C,h,w]`` logits of the prototype head."""
        batch, channels, height, width = embedding.shape
        logits = self.logits(embedding.permute(0, 2, 3, 1).reshape(-1, channels))
        return logits.view(batch, height, width, -1).permute(0, 3, 1, 2)

    def cross_entropies(self, features: Tensor, labels: Tensor) -> PixelLosses:
        """Cross-entropies of ``[N,D]`` features to ``[N]`` labels in 0..C-1, and what `collect` needs."""
        # A later pass or step must not change what this one keeps.
        present = self.present() if self.may_lack_classes else None
        return prototype_cross_entropy(features, self.prototypes.clone(), labels, self.temperature, present)

    @torch.no_grad()
    def collect(self, scored: PixelLosses, counted: Tensor) -> None:
        """Add pixels to what the next `commit` moves the bank by: each to the nearest prototype of its class.

        Args:
            scored: N pixels.
            counted: ``[N]`` bool.
        """
        classes, per_class, channels = self.prototypes.shape
        weights = counted.to(self.prototypes.dtype)[:, None]
        sums = self.prototypes.new_zeros(classes * per_class, channels + 1)
        sums.index_add_(0, scored.slots, torch.cat([scored.directions * weights, weights], dim=1))
        self._collected = sums if self._collected is None else self._collected + sums

    @torch.no_grad()
    def commit(self, taken: Tensor) -> None:
        """Move each prototype towards the mean of the pixels collected for it, in all processes, since the last call.

        Args:
            taken: scalar bool; false leaves the bank as it was.
        """
        if self._collected is None:
            return
        sums = sum_over_processes(self._collected).view(*self.prototypes.shape[:2], -1)
        self._collected = None
        counts = torch.where(taken, sums[..., -1], 0.0)
        means = sums[..., :-1] / counts.clamp(min=1)[..., None]
        touched = counts > 0
        moved = F.normalize(self.prototypes.lerp(means, 1.0 - self.momentum), dim=-1)
        self.prototypes.copy_(torch.where(touched[..., None], moved, self.prototypes))
        self.pixels.add_(counts)
        self.idle_steps.copy_(torch.where(touched, 0, self.idle_steps + taken))

    @torch.no_grad()
    def take_diagnostics(self, dead_after: int = 1000) -> dict[str, list[float]]:
        """Per class: pixels per prototype since the last call, mean cosine within the class, prototypes unused.

        A cosine near 1 means that the prototypes of a class have collapsed onto each other. Resets the pixel counts.
        """
        cosines = self.prototypes @ self.prototypes.transpose(1, 2)
        per_class = self.prototypes.shape[1]
        off_diagonal = (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(-1)) / max(
            1, per_class * (per_class - 1)
        )
        report = {
            "pixels": self.pixels.tolist(),
            "within_class_cosine": off_diagonal.tolist(),
            "dead": (self.idle_steps >= dead_after).sum(dim=1).tolist(),
        }
        self.pixels.zero_()
        return report


def sample_positions(batch: int, height: int, width: int, grid: int, generator: torch.Generator) -> Tensor:
    """One random pixel in each cell of a grid laid over each image.

    The cells tile the image exactly, so every pixel can be drawn, borders too. Images with fewer pixels than cells
    along a side get one cell per pixel.

    Returns:
        ``[B,N,2]`` int64 rows and columns, N at most grid².
    """
    rows, columns = min(grid, height), min(grid, width)
    device = generator.device
    inside = torch.rand(2, batch, rows, columns, device=device, generator=generator)
    y = (torch.arange(rows, device=device).view(1, rows, 1) + inside[0]) * (height / rows)
    x = (torch.arange(columns, device=device).view(1, 1, columns) + inside[1]) * (width / columns)
    positions = torch.stack([y.long().clamp(max=height - 1), x.long().clamp(max=width - 1)], dim=-1)
    return positions.view(batch, rows * columns, 2)


def gather_features(features: Tensor, positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Features at pixel centres, interpolated bilinearly at those positions only.

    The same values as upsampling the whole map to `size` (half-pixel centres) and indexing it, without the map.

    Args:
        features: ``[B,D,h,w]``.
        positions: ``[B,N,2]`` rows and columns in an image of `size`.
        size: height and width the map covers.

    Returns:
        ``[B,N,D]``, float32 at least.
    """
    batch, channels, height, width = features.shape
    above, below, share_below = _neighbours(positions[..., 0], size[0], height)
    left, right, share_right = _neighbours(positions[..., 1], size[1], width)
    first = torch.arange(batch, device=features.device).view(batch, 1) * (height * width)
    corners = [first + row * width + column for row in (above, below) for column in (left, right)]
    rows, columns = (1 - share_below, share_below), (1 - share_right, share_right)
    shares = [row * column for row in rows for column in columns]
    # A weighted sum of four rows of a table. Unlike `grid_sample` it reads maps that lie channels last as they are, and
    # leaves the gradient in that layout, too.
    table = at_least_single(features).permute(0, 2, 3, 1).reshape(-1, channels)
    bags = torch.stack(corners, dim=-1).flatten(0, 1)
    weights = torch.stack(shares, dim=-1).flatten(0, 1).to(table.dtype)
    sampled = F.embedding_bag(bags, table, per_sample_weights=weights, mode="sum")
    return sampled.view(batch, -1, channels)


def _neighbours(positions: Tensor, size: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Along one side: the two cells of a map a pixel's centre lies between, and the share of the second."""
    places = ((positions + 0.5) * (cells / size) - 0.5).clamp(0, cells - 1)
    before = places.floor()
    return before.long(), (before.long() + 1).clamp(max=cells - 1), places - before


def gather_values(values: Tensor, positions: Tensor) -> Tensor:
    """``[B,H,W]`` values at ``[B,N,2]`` positions, ``[B,N]``."""
    flat = positions[..., 0] * values.shape[-1] + positions[..., 1]
    return values.flatten(1).gather(1, flat)
