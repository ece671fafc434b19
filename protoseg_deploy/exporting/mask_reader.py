"""The masks on which artefacts are evaluated."""

from dataclasses import dataclass

from protoseg_deploy.data import Sample, read_mask
from protoseg_deploy.data.pairs import require_fit
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
