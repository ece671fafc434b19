"""One artefact against the one it was made from, image by image: what the gate counts."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from protoseg_deploy.bundles.verdicts import Limits
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.colors import colorize
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.files import write_atomically
from protoseg_deploy.models.tensor_checks import NotFiniteError
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import UInt8Array

ClassMap = NDArray[np.integer]


@dataclass(frozen=True)
class _Worst:
    """The image with the lowest agreement so far."""

    sample: Sample
    image: UInt8Array
    expected: ClassMap
    found: ClassMap
    agreement_percent: float


class Evidence:
    """Whether the reference says anything: a network that gives the same everywhere is matched by any that does."""

    def __init__(self) -> None:
        self._lowest: Tensor | None = None
        self._highest: Tensor | None = None
        self._classes: set[int] = set()

    def see(self, sample: Sample, logits: Tensor) -> None:
        """Look at the ``[C,H,W]`` logits of an image.

        Raises:
            NotFiniteError: they hold NaN or infinity.
        """
        if not bool(torch.isfinite(logits).all()):
            raise NotFiniteError(
                f"the network gives NaN or infinity on {sample.image}: a comparison with it is meaningless",
                "Its weights are finite, but too large to compute with: train it again.",
            )
        low, high = logits.amin(dim=(1, 2)), logits.amax(dim=(1, 2))
        self._lowest = low if self._lowest is None else torch.minimum(self._lowest, low)
        self._highest = high if self._highest is None else torch.maximum(self._highest, high)
        if len(self._classes) < 2:
            self._classes.update(np.unique(logits.argmax(dim=0).numpy()).tolist())

    def require(self, classes: ClassTable, images: int) -> None:
        """Refuse a reference that is constant.

        Raises:
            ProtosegError: the logits are the same at every pixel of all images.
            DataError: so is the class, which one class alone in all images explains as well as a useless network does.
        """
        assert self._lowest is not None
        assert self._highest is not None
        over = f"at every pixel of {images} images: a comparison with it is meaningless"
        if float((self._highest - self._lowest).max()) <= 1e-6 * float(self._highest.abs().max()):
            raise ProtosegError(
                f"the network gives the same logits {over}",
                "The output does not depend on the input: train it again. --no-verify exports it unverified.",
            )
        if len(self._classes) < 2:
            name = classes.names[next(iter(self._classes))]
            raise DataError(
                f"the network gives the class `{name}` {over}",
                hint="Verify on images that show two classes or more: --images DIR. If there are none, the network may "
                "need more training; --no-verify exports it unverified.",
            )


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
    expected_classes: set[int] = field(default_factory=set)
    """Classes that the reference gives; no more are noted than two, which is enough to tell it from a constant."""

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
            logits: ``[C,H,W]`` float32 of PyTorch, which tell how confident the network is at a pixel.
            mask: ``[H,W]`` truth, or None.
        """
        if len(self.expected_classes) < 2:
            self.expected_classes.update(np.unique(expected).tolist())
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
                f"at least {limits.min_agreement_percent:g} % is required"
            )
        if limits.max_relative_margin is not None and self.margin > limits.max_relative_margin:
            reasons.append(
                f"a confident pixel differs: relative margin {self.margin:.2g}, "
                f"at most {limits.max_relative_margin:g} is explained by rounding"
            )
        drop = self.miou_drop_points
        if drop is not None and drop > limits.max_miou_drop_points:
            reasons.append(
                f"mIoU drops by {drop:.2f} points to {self.miou_percent:.2f} %, "
                f"at most {limits.max_miou_drop_points:g} is allowed"
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
    """How confident the network is at some pixels, in units that do not depend on the scale of its logits.

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
