"""Decoded images kept in memory: of a pool that fits, each process that loads data decodes every image once."""

import os
from pathlib import Path

import torch
from torch import Tensor

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import read_image
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.data.views import at_input_scale, resize_mask
from protoseg_deploy.recipe import Data, image_reading, mask_reading

_UNLABELED_SHARE = 0.75
_BOOKKEEPING = 1536
"""Bytes counted for what a kept tensor takes besides its values and its name: objects, a place in a dictionary."""


class DecodedImages:
    """Images and masks as the network reads them: the first that fit are kept, the rest is decoded whenever asked for.

    Nothing is evicted. Every epoch visits all images in another order, so that those used least recently
    are those still to come: of a pool twice as large as the memory this finds half of the images, dropping the least
    recently used a sixth.

    What is given out may be what is kept: it is not to be modified in place. A pickled one arrives empty.

    Args:
        data: input scale, value map, and ``cache_mib``, how much may be kept. Unlabelled images are kept while three
            quarters of it last, so that they cannot lock out labelled ones, which are visited more often.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        self._reading, self._mask_reading = image_reading(data), mask_reading(data)
        self.used_bytes = 0
        """Memory of what is kept, never more than ``cache_mib``."""
        self._images: dict[str, Tensor] = {}
        self._masks: dict[str, Tensor] = {}

    def __reduce__(self) -> tuple[type["DecodedImages"], tuple[Data]]:
        return DecodedImages, (self.data,)

    def labeled(self, sample: Sample) -> tuple[Tensor, Tensor]:
        """``[3,H,W]`` uint8 RGB, channels last in memory, and ``[H,W]`` uint8 class indices, both at input scale.

        Raises:
            DataError: the image or its mask cannot be read.
        """
        assert sample.mask is not None
        image, name = self._image(sample.image, 1.0), os.fspath(sample.mask)
        mask = self._masks.get(name)
        if mask is None:
            mask = resize_mask(torch.from_numpy(read_mask(sample.mask, self._mask_reading)), image.shape[-2:])
            self._keep_if_it_fits(self._masks, name, mask, 1.0)
        return image, mask

    def unlabeled(self, path: Path) -> Tensor:
        """``[3,H,W]`` uint8 RGB at input scale, channels last in memory.

        Raises:
            DataError: it cannot be read.
        """
        return self._image(path, _UNLABELED_SHARE)

    def _image(self, path: Path, share: float) -> Tensor:
        name = os.fspath(path)
        image = self._images.get(name)
        if image is None:
            image = at_input_scale(
                torch.from_numpy(read_image(path, self._reading)).permute(2, 0, 1), self.data.input_scale
            )
            self._keep_if_it_fits(self._images, name, image, share)
        return image

    def _keep_if_it_fits(self, kept: dict[str, Tensor], name: str, values: Tensor, share: float) -> None:
        """Keep values unless more than a share of the memory would be used then."""
        size = values.untyped_storage().nbytes() + len(name) + _BOOKKEEPING
        if self.used_bytes + size <= share * self.data.cache_mib * 2**20:
            kept[name] = values
            self.used_bytes += size
