"""Training batches as a pure function of the step.

What a step sees depends on the seed and the step alone: not on the number of workers, and not on where a run was
interrupted. That is what makes resuming exact.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import read_image, read_mask
from protoseg_deploy.data.views import strong_view, view_around_class, weak_view
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.recipe import Recipe

_LABELED, _UNLABELED, _ORDER = 1, 2, 3


@dataclass(frozen=True)
class Batch:
    """What one step learns from. Images are uint8 RGB, masks int64."""

    images: Tensor
    """``[Bl,3,S,S]`` weak views of labelled images."""
    labels: Tensor
    """``[Bl,S,S]`` class indices, ignore index where nothing is known."""
    weak: Tensor
    """``[Bu,3,S,S]`` weak views of unlabelled images; Bu = 0 where a method wants none."""
    strong: Tensor
    """``[Bu,3,S,S]`` the same with disturbed colours."""
    valid: Tensor
    """``[Bu,S,S]`` bool, false outside the image."""

    def to(self, device: torch.device) -> "Batch":
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(move(self.images), move(self.labels).long(), move(self.weak), move(self.strong), move(self.valid))

    def pin_memory(self) -> "Batch":
        return Batch(*(getattr(self, name).pin_memory() for name in self.__dataclass_fields__))


class TrainingBatches(Dataset[Batch | ProtosegError]):
    """Item `step` is the batch of that step, or the error that kept it from being made.

    A loader would wrap an error that is raised in one of its workers into that worker's traceback.

    Args:
        recipe: crops, batch sizes, seed.
        labeled: labelled samples.
        unlabeled: unlabelled images; empty where a method wants none.
    """

    def __init__(self, recipe: Recipe, labeled: tuple[Sample, ...], unlabeled: tuple[Path, ...]) -> None:
        self.recipe = recipe
        self.labeled = labeled
        self.unlabeled = unlabeled

    def __len__(self) -> int:
        return self.recipe.train.steps

    def __getitem__(self, step: int) -> Batch | ProtosegError:
        try:
            return self.batch(step)
        except ProtosegError as error:
            return error

    def batch(self, step: int) -> Batch:
        """The batch of a step.

        Raises:
            DataError: an image or a mask cannot be read.
        """
        spec = self.recipe.train
        labeled = [
            self._labeled(self.labeled[index], (_LABELED, step, slot))
            for slot, index in enumerate(epoch_order(len(self.labeled), spec.batch_labeled, step, spec.seed, _LABELED))
        ]
        images, labels = (torch.stack(part) for part in zip(*labeled, strict=True))
        if not self.unlabeled:
            nothing = images.new_empty(0, *images.shape[1:])
            return Batch(images, labels, nothing, nothing, nothing[:, 0].bool())
        unlabeled = [
            self._unlabeled(self.unlabeled[index], (_UNLABELED, step, slot))
            for slot, index in enumerate(
                epoch_order(len(self.unlabeled), spec.batch_unlabeled, step, spec.seed, _UNLABELED)
            )
        ]
        weak, strong, valid = (torch.stack(part) for part in zip(*unlabeled, strict=True))
        return Batch(images, labels, weak, strong, valid)

    def labeled_views(self, rounds: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`rounds` weak views of every labelled image, ``[1,3,S,S]`` and ``[1,S,S]`` int64; the same each time."""
        for number in range(rounds):
            for index, sample in enumerate(self.labeled):
                image, mask = self._labeled(sample, (_ORDER, number, index))
                yield image[None], mask[None].long()

    def views_of_class(self, class_index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One unresized crop around a pixel of a class, of every labelled image that shows it; as `labeled_views`."""
        data, train = self.recipe.data, self.recipe.train
        for index, sample in enumerate(self.labeled):
            assert sample.mask is not None
            mask = torch.from_numpy(read_mask(sample.mask, data.value_map))
            if not (mask == class_index).any():
                continue
            image = _to_tensor(read_image(sample.image))
            with _Seeded(train.seed, _ORDER, class_index, index):
                view = view_around_class(image, mask, class_index, train.crop, data.input_scale, data.ignore_index)
            yield view.image[None], view.mask[None].long()

    def _labeled(self, sample: Sample, key: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        assert sample.mask is not None
        data = self.recipe.data
        image = _to_tensor(read_image(sample.image))
        mask = torch.from_numpy(read_mask(sample.mask, data.value_map))
        with _Seeded(self.recipe.train.seed, *key):
            view = weak_view(image, mask, self.recipe.train, data.input_scale, data.ignore_index)
        return view.image, view.mask

    def _unlabeled(self, path: Path, key: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        data = self.recipe.data
        image = _to_tensor(read_image(path))
        with _Seeded(self.recipe.train.seed, *key):
            view = weak_view(image, None, self.recipe.train, data.input_scale, data.ignore_index)
            return view.image, strong_view(view.image), view.mask == 0


def training_loader(
    batches: TrainingBatches, first_step: int, workers: int, *, pin_memory: bool
) -> DataLoader[Batch | ProtosegError]:
    """The batches from `first_step` on, in order."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=range(first_step, len(batches)),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # iterating would draw from the global one, which a resumed run has restored
    )


def epoch_order(pool: int, batch: int, step: int, seed: int, role: int) -> list[int]:
    """Indices of step `step` when a pool is passed over again and again, each time in a new random order."""
    indices: list[int] = []
    position, end = step * batch, (step + 1) * batch
    while position < end:
        epoch, offset = divmod(position, pool)
        taken = _epoch_permutation(pool, seed, role, epoch)[offset : offset + end - position]
        indices.extend(taken.tolist())
        position += len(taken)
    return indices


@lru_cache(maxsize=4)
def _epoch_permutation(pool: int, seed: int, role: int, epoch: int) -> NDArray[np.int64]:
    """Kept for the steps of the same epoch: two pools, at the turn of an epoch."""
    return np.random.default_rng((seed, _ORDER, role, epoch)).permutation(pool)


def derived_seed(seed: int, *key: int) -> int:
    """A 63-bit seed for one purpose, independent of those of other keys."""
    state = np.random.SeedSequence((seed, *key)).generate_state(1, np.uint64)
    return int(state[0] >> 1)


class _Seeded:
    """Seeds torch's CPU generator for a block and puts it back afterwards."""

    def __init__(self, seed: int, *key: int) -> None:
        self.seed = derived_seed(seed, *key)

    def __enter__(self) -> None:
        self.saved = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self.saved)


def _to_tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous()
