"""Tiled prediction equals untiled prediction wherever it can."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.tiling import default_overlap, predict_tiled
from tests.fake_runtime import FakeRuntime


def random_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def per_pixel(images: np.ndarray) -> np.ndarray:
    return (images.astype(int).sum(axis=-1) % 7).astype(np.uint8)


def looks_around(reach: int):
    """A class map in which every pixel depends on all pixels up to `reach` away and on nothing else."""

    def predict(images: np.ndarray) -> np.ndarray:
        red = torch.from_numpy(images[..., 0]).float()[:, None]
        highest = F.max_pool2d(red, 2 * reach + 1, stride=1, padding=reach)
        lowest = -F.max_pool2d(-red, 2 * reach + 1, stride=1, padding=reach)
        return ((highest + 3 * lowest) % 251)[:, 0].to(torch.uint8).numpy()

    return predict


CASES = [
    # height, width, tile, overlap, batch
    (64, 64, 16, 0, 1),
    (64, 48, 16, 4, 3),
    (37, 101, (16, 24), 5, 4),
    (17, 16, 16, 15, 2),
    (100, 9, 16, 8, 8),  # narrower than a tile
    (5, 7, 16, 4, 1),  # smaller than a tile
    (20, 6, 16, 6, 1),  # a side as long as the overlap
    (1, 1, 4, 0, 1),
]


@pytest.mark.parametrize(("height", "width", "tile", "overlap", "batch"), CASES)
@pytest.mark.parametrize("is_fixed", [False, True])
def test_a_pixelwise_network_gives_the_same_in_tiles(
    height: int, width: int, tile, overlap: int, batch: int, is_fixed: bool
) -> None:
    size = (tile, tile) if isinstance(tile, int) else tile
    runtime = FakeRuntime(per_pixel, fixed_size=size if is_fixed else None)
    image = random_image(height, width)
    np.testing.assert_array_equal(predict_tiled(runtime, image, tile, overlap, batch), per_pixel(image[None])[0])
    assert max(shape[0] for shape in runtime.shapes) <= batch


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"), [(61, 83, 20, 8), (40, 40, (18, 25), 9), (90, 31, 16, 12)]
)
def test_a_network_of_limited_reach_gives_the_same_in_tiles(height, width, tile, overlap) -> None:
    function = looks_around(overlap // 2)
    image = random_image(height, width)
    np.testing.assert_array_equal(
        predict_tiled(FakeRuntime(function), image, tile, overlap, batch=4), function(image[None])[0]
    )
    without_overlap = predict_tiled(FakeRuntime(function), image, tile, 0, batch=4)
    assert (without_overlap != function(image[None])[0]).any(), "the function does not look around at all"


@pytest.mark.parametrize(
    ("length", "tile", "overlap"), [(100, 16, 4), (100, 16, 7), (33, 32, 8), (250, 31, 30), (64, 16, 0)]
)
def test_no_output_comes_from_near_an_inner_border(length: int, tile: int, overlap: int) -> None:
    """The fake says how far each of its pixels is from the left or right border of its tile."""

    def distance(images: np.ndarray) -> np.ndarray:
        columns = np.arange(images.shape[2])
        return np.broadcast_to(np.minimum(columns, columns[::-1]), images.shape[:3]).astype(np.int32)

    found = predict_tiled(FakeRuntime(distance), random_image(tile, length), tile, overlap)
    to_edge = np.minimum(np.arange(length), np.arange(length)[::-1])
    assert (found >= np.minimum(overlap // 2, to_edge)).all()


def test_padding_of_a_fixed_size_repeats_the_image_and_is_cut_again() -> None:
    seen: list[np.ndarray] = []

    def remember(images: np.ndarray) -> np.ndarray:
        seen.append(images.copy())
        return images[..., 0]

    image = random_image(3, 5)
    class_map = predict_tiled(FakeRuntime(remember, fixed_size=(8, 16)), image, (8, 16), 2)
    np.testing.assert_array_equal(class_map, image[..., 0])
    padded = seen[0][0]
    assert padded.shape == (8, 16, 3)
    np.testing.assert_array_equal(padded[3:6, :5], image[::-1])


def test_dtype_of_many_classes_survives() -> None:
    runtime = FakeRuntime(lambda images: images[..., 0].astype(np.int32) + 300, classes=600)
    assert predict_tiled(runtime, random_image(20, 20), 8, 2).dtype == np.int32


@pytest.mark.parametrize(
    ("tile", "overlap", "fixed", "message"),
    [
        (16, 16, None, "overlap of 16"),
        (16, -1, None, "overlap of -1"),
        (0, 0, None, "sizes start at 1"),
        (16, 4, (32, 32), "32x32 only"),
    ],
)
def test_what_does_not_fit_is_said(tile: int, overlap: int, fixed, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        predict_tiled(FakeRuntime(fixed_size=fixed), random_image(8, 8), tile, overlap)


@pytest.mark.parametrize(("tile", "overlap", "batch"), [(1, 0, 10**30), (10**30, 0, 1), (10**30, 10**20, 10**30)])
def test_absurd_sizes_of_tiles_and_batches_give_the_right_result(tile: int, overlap: int, batch: int) -> None:
    for size in ((1, 1), (1, 50), (16, 200), (7, 5)):
        image = random_image(*size)
        found = predict_tiled(FakeRuntime(per_pixel), image, tile, overlap, batch)
        np.testing.assert_array_equal(found, per_pixel(image[None])[0])


def test_default_overlap_fits_any_tile() -> None:
    for tile in range(1, 40):
        assert 0 <= default_overlap(tile) < tile
    assert default_overlap((100, 40)) == 10
