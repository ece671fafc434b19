"""One artefact against the one it was made from, image by image: what the gate counts."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from protoseg_deploy.data import Sample
from protoseg_deploy.evaluation.colors import colorize
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.files import write_atomically
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.manifest import Limits

ClassMap = NDArray[np.integer]


@dataclass(frozen=True)
class _Worst:
    """The image with the lowest agreement so far."""

    sample: Sample
    image: UInt8Array
    expected: ClassMap
    found: ClassMap
    agreement_percent: float


@dataclass
class Tally:
    """Agreement of one artefact with its reference over all images."""

    matrix: ConfusionMatrix
    """Of the artefact against masks."""
    reference_matrix: ConfusionMatrix
    """Of its reference against masks."""
    pixels: int = 0
    disagreeing: int = 0
    margin: float = 0.0
    worst: _Worst | None = field(default=None)

    def add(
        self,
        sample: Sample,
        image: UInt8Array,
        expected: ClassMap,
        found: ClassMap,
        logits: Tensor,
        mask: UInt8Array | None,
    ) -> None:
        """Count one image.

        Args:
            sample: where it comes from.
            image: ``[H,W,3]`` uint8 as the artefact saw it.
            expected: ``[H,W]`` class map of the reference.
            found: ``[H,W]`` class map of the artefact.
            logits: ``[C,H,W]`` float32 of PyTorch, which tell how sure the network is of a pixel.
            mask: ``[H,W]`` truth, or None.
        """
        differs = expected != found
        count = int(differs.sum())
        self.pixels += differs.size
        self.disagreeing += count
        if count:
            self.margin = max(self.margin, relative_margin(logits, torch.from_numpy(differs)))
        if mask is not None:
            self.matrix.update(found, mask)
            self.reference_matrix.update(expected, mask)
        agreement = 100.0 * (1.0 - count / differs.size)
        if self.worst is None or agreement < self.worst.agreement_percent:
            self.worst = _Worst(sample, image, expected, found, agreement)

    @property
    def agreement_percent(self) -> float:
        return 100.0 * (1.0 - self.disagreeing / self.pixels)

    @property
    def miou_percent(self) -> float | None:
        return _finite(self.matrix.miou_percent())

    @property
    def miou_drop_points(self) -> float | None:
        before, after = _finite(self.reference_matrix.miou_percent()), self.miou_percent
        return None if before is None or after is None else before - after

    def faults(self, limits: Limits, against: str) -> tuple[str, ...]:
        """Why the artefact does not pass; empty if it does."""
        reasons = []
        if self.agreement_percent < limits.min_agreement_percent:
            reasons.append(
                f"{self.agreement_percent:.3f} % of the pixels agree with {against}, "
                f"at least {limits.min_agreement_percent:g} % must"
            )
        if limits.max_relative_margin is not None and self.margin > limits.max_relative_margin:
            reasons.append(
                f"a pixel differs of which PyTorch is sure: relative margin {self.margin:.2g}, "
                f"at most {limits.max_relative_margin:g} passes for rounding"
            )
        drop = self.miou_drop_points
        if drop is not None and drop > limits.max_miou_drop_points:
            reasons.append(
                f"the mIoU falls by {drop:.2f} points to {self.miou_percent:.2f} %, "
                f"at most {limits.max_miou_drop_points:g} may be lost"
            )
        return tuple(reasons)

    def save_worst(self, path: Path, classes: ClassTable) -> None:
        """Image, expected, found and difference (white) of the worst image side by side."""
        assert self.worst is not None
        image, expected, found = self.worst.image, self.worst.expected, self.worst.found
        differs = np.repeat((expected != found)[..., None], 3, axis=2).astype(np.uint8) * 255
        gap = np.full((image.shape[0], 4, 3), 128, dtype=np.uint8)
        maps = [colorize(class_map, classes.colors) for class_map in (expected, found)]
        row = np.concatenate([image, gap, maps[0], gap, maps[1], gap, differs], axis=1)
        write_atomically(path, lambda file: Image.fromarray(row).save(file, format="PNG"))


def relative_margin(logits: Tensor, where: Tensor) -> float:
    """How sure the network is of some pixels, in units that do not depend on the scale of its logits.

    Args:
        logits: ``[C,H,W]``.
        where: ``[H,W]`` bool with at least one pixel.

    Returns:
        Largest distance between the two best logits at these pixels, over the root mean square distance of all logits
        from their mean over the classes.
    """
    best, second = logits[:, where].topk(2, dim=0).values
    spread = float((logits - logits.mean(dim=0)).square().mean().sqrt())
    margin = float((best - second).max()) / max(spread, 1e-12)
    return margin if math.isfinite(margin) else 1e12


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
