"""Which class a labelled crop is drawn for, and which image shows it: rare classes most often."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data, mask_reading

_TEMPERATURE = 0.1
_MOST_THREADS = 8


class ClassSampling:
    """Rare class sampling (Hoyer et al., DAFormer, CVPR 2022) over a set of masks.

    A class with the share `f` of all labelled pixels is drawn with a probability proportional to ``exp((1 - f) / T)``,
    and of the images that show it each is as probable as the other. `T` is 0.1: the published 0.01, meant for thousands
    of labelled images, would draw the one or two rarest classes alone, and of few images the same ones again and again.

    Args:
        pixels: ``[N,C]`` how many pixels of each class each image has.

    Raises:
        DataError: no image shows a class.
    """

    def __init__(self, pixels: NDArray[np.int64]) -> None:
        totals = pixels.sum(axis=0)
        if not totals.any():
            raise DataError("no labelled mask shows a class: every pixel is ignored")
        weights = np.where(totals > 0, np.exp((1 - totals / totals.sum()) / _TEMPERATURE), 0.0)
        self.probabilities: NDArray[np.float64] = weights / weights.sum()
        """``[C]``; 0 for classes that no image shows."""
        self._images = {int(index): np.flatnonzero(pixels[:, index]) for index in np.flatnonzero(totals)}

    @classmethod
    def of(cls, samples: Sequence[Sample], data: Data) -> "ClassSampling":
        """Read the masks of labelled samples once.

        Raises:
            DataError: a mask cannot be read, or none shows a class.
        """
        reading = mask_reading(data)

        def pixels(sample: Sample) -> NDArray[np.int64]:
            assert sample.mask is not None
            return np.bincount(read_mask(sample.mask, reading).ravel(), minlength=256)

        with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
            counts = np.stack(list(pool.map(pixels, samples)))
        counts[:, data.ignore_index] = 0
        return cls(counts)

    def draw_class(self, random: np.random.Generator) -> int:
        """A class that some image shows."""
        return int(random.choice(len(self.probabilities), p=self.probabilities))

    def draw_image(self, class_index: int, random: np.random.Generator) -> int:
        """The index of an image that shows a class."""
        return int(random.choice(self._images[class_index]))
