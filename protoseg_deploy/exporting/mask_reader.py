"""The masks on which artefacts are evaluated."""

import math
from dataclasses import dataclass

from protoseg_deploy.data import Sample, read_mask
from protoseg_deploy.data.pairs import require_fit
from protoseg_deploy.errors import DataError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.recipe import ClassTable, ImageReading, MaskReading
from protoseg_deploy.runtimes.base import UInt8Array


@dataclass(frozen=True)
class MaskReader:
    """How images and their masks are read, and the masks counted."""

    classes: ClassTable
    images: ImageReading
    masks: MaskReading

    def matrix(self) -> ConfusionMatrix:
        return ConfusionMatrix(len(self.classes), self.masks.ignore_index)

    def miou_percent(self, matrix: ConfusionMatrix) -> float:
        """Mean IoU of what was counted.

        Raises:
            DataError: nothing was: the masks show no class.
        """
        miou = matrix.miou_percent()
        if math.isnan(miou):
            raise DataError(
                f"no pixel of the masks has a class, all are ignored ({self.masks.ignore_index}): there is no mIoU",
                hint="Give images whose masks show classes, or --images without --masks.",
            )
        return miou

    def read(self, sample: Sample, image: UInt8Array) -> UInt8Array | None:
        """``[H,W]``, or None for an image without a mask.

        Raises:
            DataError: it is of another size than the image, or holds what is no class.
        """
        if sample.mask is None:
            return None
        mask = read_mask(sample.mask, self.masks)
        require_fit(sample, image, mask, len(self.classes), self.images, self.masks)
        return mask
