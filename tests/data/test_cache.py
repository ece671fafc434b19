"""Decoded images are kept within their budget, labelled ones first, and change nothing that is computed."""

import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from protoseg_deploy.data import Sample, cache, find_data, read_image, read_mask
from protoseg_deploy.data.cache import DecodedImages
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.workers import training_loader
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data, Recipe
from tests.conftest import with_values

MIB = 2**20
HEIGHT, WIDTH = 100, 120
IMAGE_BYTES = 3 * HEIGHT * WIDTH


def batches_of(recipe: Recipe, cache_mib: int, input_scale: float = 1.0, **train: object) -> TrainingBatches:
    recipe = with_values(recipe, data={"cache_mib": cache_mib, "input_scale": input_scale}, train=train)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    return TrainingBatches(recipe, sets.labeled, sets.unlabeled, strong_views=2)


def tensors_of(batches: TrainingBatches) -> Iterator[Tensor]:
    """All that comes out of some batches: each unlabelled image is seen more than twice."""
    for step in range(12):
        batch = batches.batch(step)
        yield from (batch.images, batch.labels, batch.weak, batch.valid, batch.augmentations, batch.strong)
    for views in (batches.labeled_views(2), batches.views_of_class(1), batches.views_of_class(2)):
        for image, labels in views:
            yield from (image, labels)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each file was decoded for the cache."""
    counts: Counter[Path] = Counter()

    def counting(read: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
        def counted(path: Path, *rest: object) -> np.ndarray:
            counts[path] += 1
            return read(path, *rest)

        return counted

    for read in (read_image, read_mask):
        monkeypatch.setattr(cache, read.__name__, counting(read))
    return counts


@pytest.fixture
def photos(tmp_path: Path) -> list[Sample]:
    """Forty pairs of noise, more than 1 MiB of pixels."""
    numbers = np.random.default_rng(0)
    samples = []
    for number in range(40):
        sample = Sample(tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png")
        Image.fromarray(numbers.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(sample.image)
        Image.fromarray(numbers.integers(0, 3, (HEIGHT, WIDTH), dtype=np.uint8)).save(sample.mask)
        samples.append(sample)
    return samples


def budget_of(mib: int, **values: object) -> DecodedImages:
    return DecodedImages(Data(classes=["a", "b", "c"], cache_mib=mib, **values))


def kept_tensors(images: DecodedImages, samples: list[Sample]) -> list[Tensor]:
    """Images and masks that are given out again, and not decoded again."""
    first, again = ([tensor for sample in samples for tensor in images.labeled(sample)] for _ in range(2))
    return [tensor for tensor, other in zip(first, again, strict=True) if tensor is other]


@pytest.mark.parametrize("input_scale", [1.0, 0.7])
@pytest.mark.parametrize(
    "train", [{}, {"class_aware_share": 0.5, "copy_paste_probability": 0.5}, {"crop": 40, "scale": [1.0, 1.0]}]
)
def test_batches_are_the_same_and_what_is_kept_stays_as_it_was(
    tiny_recipe: Recipe, input_scale: float, train: dict[str, object], decoded: Counter[Path]
) -> None:
    without, kept = (batches_of(tiny_recipe, mib, input_scale, **train) for mib in (0, 64))
    expected = list(tensors_of(without))
    assert without.decoded.used_bytes == 0
    decoded.clear()
    for _ in range(2):
        found = list(tensors_of(kept))
        assert len(found) == len(expected)
        assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert set(decoded.values()) == {1}
    assert len(decoded) == 9 + 2 * 6, "unlabelled images, labelled ones and their masks"
    for sample in kept.labeled:
        for first, again in zip(kept.decoded.labeled(sample), without.decoded.labeled(sample), strict=True):
            assert torch.equal(first, again), "nothing was modified in place"
    for path in kept.unlabeled:
        assert torch.equal(kept.decoded.unlabeled(path), without.decoded.unlabeled(path))


def test_what_is_kept_is_small_and_quick_to_crop(photos: list[Sample]) -> None:
    image, mask = budget_of(1, input_scale=0.5).labeled(photos[0])
    assert (image.shape, mask.shape) == ((3, HEIGHT // 2, WIDTH // 2), (HEIGHT // 2, WIDTH // 2))
    assert image.dtype == mask.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()
    assert image.untyped_storage().nbytes() == image.numel()
    assert mask.untyped_storage().nbytes() == mask.numel()


def test_the_budget_is_never_exceeded_and_well_used(photos: list[Sample]) -> None:
    images = budget_of(1)
    for _ in range(2):
        for sample in photos:
            images.labeled(sample)
            assert images.used_bytes <= MIB
    stored = sum(tensor.untyped_storage().nbytes() for tensor in kept_tensors(images, photos))
    assert 0.9 * MIB < stored < images.used_bytes


def test_the_first_that_fit_stay_and_the_rest_is_decoded_again(photos: list[Sample], decoded: Counter[Path]) -> None:
    """Also in the worst order for a cache that drops what was used least recently."""
    images = budget_of(1)
    for _ in range(5):
        for sample in photos:
            images.unlabeled(sample.image)
    assert set(decoded.values()) == {1, 5}
    once = [decoded[sample.image] == 1 for sample in photos]
    assert once == sorted(once, reverse=True)
    assert sum(once) > 0.7 * MIB / IMAGE_BYTES - 1


def test_unlabeled_images_leave_room_for_labeled_ones(photos: list[Sample], decoded: Counter[Path]) -> None:
    images = budget_of(1)
    for sample in photos:
        images.unlabeled(sample.image)
    assert images.used_bytes <= 0.75 * MIB
    labeled = photos[-4:]
    decoded.clear()
    for _ in range(3):
        for sample in labeled:
            images.labeled(sample)
    assert set(decoded.values()) == {1}
    assert len(decoded) == 8


def test_an_image_that_is_labeled_and_in_the_pool_is_kept_once(photos: list[Sample], decoded: Counter[Path]) -> None:
    images = budget_of(1)
    pooled = images.unlabeled(photos[0].image)
    assert images.labeled(photos[0])[0] is pooled
    assert len(kept_tensors(images, photos[:1])) == 2


@pytest.mark.parametrize("mib", [0, 1])
def test_what_cannot_be_read_is_an_error_each_time_and_not_kept(photos: list[Sample], mib: int) -> None:
    images = budget_of(mib)
    whole = photos[0].image.read_bytes()
    photos[0].image.write_bytes(whole[:300])
    for _ in range(2):
        for ask in (lambda: images.unlabeled(photos[0].image), lambda: images.labeled(photos[0])):
            with pytest.raises(DataError, match=photos[0].image.name):
                ask()
    assert images.used_bytes == 0
    photos[0].image.write_bytes(whole)
    assert images.unlabeled(photos[0].image).shape == (3, HEIGHT, WIDTH)


def test_replacements_of_unreadable_images_are_the_same(tiny_recipe: Recipe, scenes: Path, tmp_path: Path) -> None:
    shutil.copytree(scenes, tmp_path / "data")
    for name in ("001.png", "004.png"):
        (tmp_path / "data/unlabeled/images" / name).write_bytes(b"")
    recipe = with_values(tiny_recipe, data={"root": str(tmp_path / "data")})
    without, kept = (batches_of(recipe, mib) for mib in (0, 64))
    replaced = 0
    for step in range(12):
        expected, batch = without.batch(step), kept.batch(step)
        assert (batch.files, batch.unreadable) == (expected.files, expected.unreadable)
        assert torch.equal(batch.strong, expected.strong)
        replaced += len(batch.unreadable)
    assert replaced > 2


def test_loader_processes_give_the_same_and_copies_start_empty(tiny_recipe: Recipe) -> None:
    batches = batches_of(tiny_recipe, 64)
    alone = [batches.batch(step).strong for step in range(8)]
    assert batches.decoded.used_bytes > 0
    copied = pickle.loads(pickle.dumps(batches))
    assert copied.decoded.used_bytes == 0
    for source in (batches, copied):
        found = [batch.strong for batch in training_loader(source, 0, 1, pin_memory=False)]
        assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))
