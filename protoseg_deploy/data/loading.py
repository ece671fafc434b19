"""Training batches as a pure function of the step.

What a step sees depends on the seed and the step alone: not on the number of workers, and not on where a run was
interrupted. That is what makes resuming exact.
"""

import mmap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.cache import DecodedImages
from protoseg_deploy.data.class_sampling import ClassSampling
from protoseg_deploy.data.copy_paste import paste_classes
from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.data.order import image_at
from protoseg_deploy.data.photometric import draw_augmentation
from protoseg_deploy.data.views import View, view_around_class, weak_view
from protoseg_deploy.distributed import World
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.recipe import Recipe, mask_reading
from protoseg_deploy.seeds import Purpose, derived_seed

_ATTEMPTS = 20
"""So many images in a row that cannot be read mean that something is wrong with all of them."""
_ALONE = World(0, 1)
SeedKey = tuple[Purpose, int, int]
_MOST_LABELED_VIEWS = 1024


class TrainingBatches(Dataset[Batch | ProtosegError]):
    """Item `step` is the batch of that step, or the error that kept it from being made.

    A loader would wrap an error that is raised in one of its workers into that worker's traceback.

    Args:
        recipe: crops, batch sizes, seed.
        labeled: labelled samples.
        unlabeled: unlabelled images; empty where a method wants none.
        strong_views: V, how many of each unlabelled image.
        augment_in_loader: make strong views here; otherwise only their augmentation is drawn, and they are made where
            the networks are.
        world: which slots of the global batch to fill.

    Raises:
        DataError: crops are to be drawn for classes, and a mask cannot be read or none shows a class.
    """

    def __init__(
        self,
        recipe: Recipe,
        labeled: tuple[Sample, ...],
        unlabeled: Sequence[Path],
        *,
        strong_views: int = 1,
        augment_in_loader: bool = True,
        world: World = _ALONE,
    ) -> None:
        self.recipe = recipe
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.strong_views = strong_views
        self.augment_in_loader = augment_in_loader
        self.world = world
        self.decoded = DecodedImages(recipe.data)
        self.before_reading: Callable[[Path], None] = _unwatched
        """Called with every image that is requested, decoded before or not."""
        by_class = recipe.train.class_aware_share or recipe.train.copy_paste_probability
        self.class_sampling = ClassSampling.of(labeled, recipe.data) if by_class else None

    def __len__(self) -> int:
        return self.recipe.train.steps

    def __getitem__(self, step: int) -> Batch | ProtosegError:
        try:
            return self.batch(step)
        except ProtosegError as error:
            return error

    def batch_bytes(self) -> int:
        """Memory that a batch takes where every tensor of it has pages of its own."""
        spec = self.recipe.train
        labeled = len(self.world.slots(spec.batch_labeled))
        unlabeled = len(self.world.slots(spec.batch_unlabeled)) if self.unlabeled else 0
        strong = self.strong_views if self.augment_in_loader else 0
        planes = [3 * labeled, labeled, 3 * unlabeled, unlabeled, 3 * strong * unlabeled]
        sizes = [count * spec.crop**2 for count in planes]
        return sum(-(-size // mmap.PAGESIZE) * mmap.PAGESIZE for size in sizes) + mmap.PAGESIZE  # augmentations

    def batch(self, step: int) -> Batch:
        """The batch of a step. Unlabelled images that cannot be read are replaced by others and named in it.

        Raises:
            DataError: a labelled image or a mask cannot be read, or none of the unlabelled images tried.
        """
        spec = self.recipe.train
        slots = self.world.slots(spec.batch_labeled), self.world.slots(spec.batch_unlabeled)
        first_slots = slots[0].start, slots[1].start
        samples, views = zip(*[self._labeled_slot(step, slot) for slot in slots[0]], strict=True)
        images, labels = torch.stack([view.image for view in views]), torch.stack([view.mask for view in views])
        files = [str(sample.image) for sample in samples]
        if not self.unlabeled:
            nothing = images.new_empty(0, *images.shape[1:])
            missing = torch.empty(0)
            return Batch(images, labels, nothing, nothing[:, 0].bool(), missing, missing, first_slots, tuple(files))
        paths, unlabeled, unreadable = zip(*[self._unlabeled(step, slot) for slot in slots[1]], strict=True)
        weak, valid, augmentations = (torch.stack(part) for part in zip(*unlabeled, strict=True))
        batch = Batch(
            images,
            labels,
            weak,
            valid,
            augmentations.transpose(0, 1),
            strong=weak.new_empty(0),
            first_slots=first_slots,
            files=(*files, *map(str, paths)),
            unreadable=tuple(line for lines in unreadable for line in lines),
        )
        return batch.with_strong_views() if self.augment_in_loader else batch

    def labeled_views(self, rounds: int) -> Iterator[tuple[Tensor, Tensor]]:
        """`rounds` weak views of every labelled image, ``[1,3,S,S]`` and ``[1,S,S]`` int64; the same each time.

        Of very many labelled images an evenly spaced part.
        """
        spacing = -(-len(self.labeled) // _MOST_LABELED_VIEWS)
        for number in range(rounds):
            for index, sample in enumerate(self.labeled[::spacing]):
                view = self._labeled(sample, (Purpose.PLACING_VIEW, number, index))
                yield view.image[None], view.mask[None].long()

    def views_of_class(self, class_index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One unresized crop around a pixel of a class, of every labelled image that shows it; as `labeled_views`.

        At an input scale below 1 a class of a few pixels may still be lost.
        """
        data, train = self.recipe.data, self.recipe.train
        reading = mask_reading(data)
        for index, sample in enumerate(self.labeled):
            assert sample.mask is not None
            if not (read_mask(sample.mask, reading) == class_index).any():
                continue
            image, mask = self.decoded.labeled(sample)
            with _Seeded(train.seed, Purpose.PLACING_VIEW_OF_CLASS, class_index, index):
                view = view_around_class(image, mask, class_index, train.crop, data.ignore_index)
            yield view.image[None], view.mask[None].long()

    def _labeled_slot(self, step: int, slot: int) -> tuple[Sample, View]:
        """The sample of a slot, in its turn or drawn for a class, and its view, perhaps with pixels pasted in."""
        spec = self.recipe.train
        position = step * spec.batch_labeled + slot
        sample = self.labeled[image_at(len(self.labeled), position, spec.seed, Purpose.LABELED_VIEW)]
        shown: int | None = None
        if drawn := self._drawn_by_class(spec.class_aware_share, (Purpose.CLASS_AWARE, step, slot)):
            sample, (shown, _) = drawn
        view = self._labeled(sample, (Purpose.LABELED_VIEW, step, slot), shown)
        if drawn := self._drawn_by_class(spec.copy_paste_probability, (Purpose.COPY_PASTE, step, slot)):
            donor, classes = drawn
            view = paste_classes(view, self._labeled(donor, (Purpose.COPY_PASTE_VIEW, step, slot), classes[0]), classes)
        return sample, view

    def _drawn_by_class(self, probability: float, key: SeedKey) -> tuple[Sample, tuple[int, int]] | None:
        """With some probability a sample and two classes, perhaps the same, the first of which it shows."""
        if self.class_sampling is None:
            return None
        random = np.random.default_rng(derived_seed(self.recipe.train.seed, *key))
        if random.random() >= probability:
            return None
        first, second = (self.class_sampling.draw_class(random) for _ in range(2))
        return self.labeled[self.class_sampling.draw_image(first, random)], (first, second)

    def _labeled(self, sample: Sample, key: SeedKey, class_index: int | None = None) -> View:
        self.before_reading(sample.image)
        image, mask = self.decoded.labeled(sample)
        with _Seeded(self.recipe.train.seed, *key):
            return weak_view(image, mask, self.recipe.train, self.recipe.data.ignore_index, class_index)

    def _unlabeled(self, step: int, slot: int) -> tuple[Path, tuple[Tensor, Tensor, Tensor], list[str]]:
        """The file, its view, validity and augmentations; and what could not be read before it, file, tab, reason."""
        path, image, unreadable = self._readable(step, slot)
        with _Seeded(self.recipe.train.seed, Purpose.UNLABELED_VIEW, step, slot):
            view = weak_view(image, None, self.recipe.train, self.recipe.data.ignore_index)
            augmentations = torch.stack([draw_augmentation() for _ in range(self.strong_views)])
        return path, (view.image, view.mask == 0, augmentations), unreadable

    def _readable(self, step: int, slot: int) -> tuple[Path, Tensor, list[str]]:
        """The image of a slot; another one, drawn at random, in place of each that cannot be read."""
        spec, pool = self.recipe.train, len(self.unlabeled)
        index = image_at(pool, step * spec.batch_unlabeled + slot, spec.seed, Purpose.UNLABELED_VIEW)
        unreadable: list[str] = []
        for attempt in range(_ATTEMPTS):
            path = self.unlabeled[index]
            self.before_reading(path)
            try:
                return path, self.decoded.unlabeled(path), unreadable
            except DataError as error:
                reason = error.message.removeprefix(f"{path}: ").replace("\t", " ")
                unreadable.append(f"{path}\t{reason}")
            index = derived_seed(spec.seed, Purpose.REPLACEMENT, step, slot, attempt) % pool
        raise DataError(
            f"step {step}: {_ATTEMPTS} unlabelled images in a row cannot be read",
            [line.replace("\t", ": ") for line in dict.fromkeys(unreadable)],
            "`protoseg check` looks for images that cannot be read.",
        )


def _unwatched(path: Path) -> None:
    """No process waits for this one."""


class _Seeded:
    """Seeds torch's CPU generator for a block and puts it back afterwards."""

    def __init__(self, seed: int, purpose: Purpose, *key: int) -> None:
        self.seed = derived_seed(seed, purpose, *key)

    def __enter__(self) -> None:
        self.saved = torch.get_rng_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *exception: object) -> None:
        torch.set_rng_state(self.saved)
