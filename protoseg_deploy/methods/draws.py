"""The random numbers of a step that methods use."""

from collections.abc import Sequence

import torch
from torch import Tensor

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.methods.cutmix import CutMix
from protoseg_deploy.methods.prototypes import sample_positions
from protoseg_deploy.recipe import Train
from protoseg_deploy.seeds import Purpose, derived_seed


class StepDraws:
    """Drawn for the whole batch of a step, from its seed and number alone; a batch gets the numbers of its images.

    So a batch that is spread over processes, or over the parts of an accumulated step, sees what it would in one piece.

    Args:
        spec: seed and global batch sizes.
        batch: a part of the batch of the step, on the device of the networks.
        step: counted from 0.
    """

    def __init__(self, spec: Train, batch: Batch, step: int) -> None:
        self.spec = spec
        self.step = step
        self.device = batch.images.device
        first_labeled, first_unlabeled = batch.first_slots
        self.labeled = slice(first_labeled, first_labeled + len(batch.images))
        self.unlabeled = slice(first_unlabeled, first_unlabeled + len(batch.weak))

    def cutmix(self, height: int, width: int, probability: float, view: int = 0) -> CutMix:
        """Boxes for one of the strong views."""
        shape = torch.Size((self.spec.batch_unlabeled, height, width))
        return CutMix.draw(shape, probability, self._generator(Purpose.CUTMIX, view))[self.unlabeled]

    def labeled_positions(self, height: int, width: int, grid: int) -> Tensor:
        """``[Bl,N,2]`` pixels of the labelled images; see `sample_positions`."""
        generator = self._generator(Purpose.LABELED_POSITIONS)
        return sample_positions(self.spec.batch_labeled, height, width, grid, generator)[self.labeled]

    def unlabeled_positions(self, height: int, width: int, grid: int) -> Tensor:
        """``[Bu,N,2]`` pixels of the unlabelled images."""
        generator = self._generator(Purpose.UNLABELED_POSITIONS)
        return sample_positions(self.spec.batch_unlabeled, height, width, grid, generator)[self.unlabeled]

    def dropped_channels(self, channels: Sequence[int], share: float) -> list[Tensor]:
        """``[Bu,C_i]`` bool for each level of a pyramid: which channels of which unlabelled image are dropped."""
        generator = self._generator(Purpose.DROPPED_CHANNELS)
        shape = self.spec.batch_unlabeled, sum(channels)
        dropped = torch.rand(shape, device=self.device, generator=generator) < share
        return list(torch.split(dropped[self.unlabeled], list(channels), dim=1))

    def half_of_the_images(self) -> Tensor:
        """``[Bu]`` bool, true for a random half of the unlabelled images of the whole batch."""
        images = self.spec.batch_unlabeled
        chosen = (
            torch.randperm(images, device=self.device, generator=self._generator(Purpose.HALF_OF_IMAGES)) < images // 2
        )
        return chosen[self.unlabeled]

    def region_positions(self, regions: int, positions: int) -> Tensor:
        """``[Bu,M]`` int64 in 0..positions-1: from which positions of which unlabelled image M regions grow."""
        generator = self._generator(Purpose.REGIONS)
        shape = self.spec.batch_unlabeled, regions
        return torch.randint(positions, shape, device=self.device, generator=generator)[self.unlabeled]

    def _generator(self, purpose: Purpose, *key: int) -> torch.Generator:
        """One for each purpose: drawing from it affects nothing else."""
        return torch.Generator(device=self.device).manual_seed(derived_seed(self.spec.seed, purpose, *key, self.step))
