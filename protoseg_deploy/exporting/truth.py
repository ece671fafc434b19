"""The masks that artefacts are judged by."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protoseg_deploy.data import Sample, read_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import UInt8Array


@dataclass(frozen=True)
class Truth:
    """How the masks of the images are read and counted."""

    classes: ClassTable
    ignore_index: int
    value_map: Mapping[int, int]

    def matrix(self) -> ConfusionMatrix:
        return ConfusionMatrix(len(self.classes), self.ignore_index)

    def read(self, sample: Sample, image: UInt8Array) -> UInt8Array | None:
        """``[H,W]``, or None for an image without a mask.

        Raises:
            DataError: it is of another size than the image, or holds what is no class.
        """
        if sample.mask is None:
            return None
        mask = read_mask(sample.mask, self.value_map)
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{sample.mask}: mask is {mask.shape[1]}x{mask.shape[0]} pixels, "
                f"its image {image.shape[1]}x{image.shape[0]}"
            )
        count = len(self.classes)
        strange = [int(value) for value in np.unique(mask) if value >= count and value != self.ignore_index]
        if strange:
            raise DataError(
                f"{sample.mask}: holds {', '.join(map(str, strange[:8]))}: no class (0..{count - 1}) and not the "
                f"ignore index {self.ignore_index}"
            )
        return mask
