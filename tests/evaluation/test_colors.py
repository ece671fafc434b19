"""Class maps as pictures, against a loop over pixels."""

import numpy as np
import pytest

from protoseg_deploy.evaluation.colors import IGNORE_COLORS, colorize, overlay

COLORS = [(0, 0, 0), (255, 10, 20), (30, 200, 90)]


def random_map(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (12, 17), dtype=np.uint8)


def test_every_pixel_gets_the_colour_of_its_class() -> None:
    class_map = random_map()
    picture = colorize(class_map, COLORS)
    assert picture.dtype == np.uint8
    for (row, column), index in np.ndenumerate(class_map):
        assert tuple(picture[row, column]) == COLORS[index]


@pytest.mark.parametrize(("dtype", "ignored"), [(np.uint8, 255), (np.uint8, 3), (np.int32, 70000), (np.int64, -1)])
def test_what_is_no_class_is_striped_grey(dtype: type, ignored: int) -> None:
    class_map = random_map().astype(dtype)
    class_map[2:9, 3:12] = ignored
    picture = colorize(class_map, COLORS)
    assert {tuple(color) for color in picture[2:9, 3:12].reshape(-1, 3).tolist()} == set(IGNORE_COLORS)
    outside = np.ones(class_map.shape, dtype=bool)
    outside[2:9, 3:12] = False
    np.testing.assert_array_equal(picture[outside], np.array(COLORS)[class_map[outside]])


def test_overlay_blends_and_leaves_ignored_pixels() -> None:
    image = np.random.default_rng(1).integers(0, 256, (12, 17, 3), dtype=np.uint8)
    class_map = random_map()
    class_map[0, :5] = 255
    colors = np.array([*COLORS, *[(0, 0, 0)] * 253])[class_map]
    for alpha in (0.0, 0.3, 0.5, 1.0):
        blend = overlay(image, class_map, COLORS, alpha)
        expected = image * (1 - alpha) + colors * alpha
        expected[0, :5] = image[0, :5]
        assert np.abs(blend - expected).max() <= 1
    np.testing.assert_array_equal(overlay(image, class_map, COLORS, 0.0), image)
    np.testing.assert_array_equal(overlay(image, class_map, COLORS, 1.0)[1:], colorize(class_map, COLORS)[1:])


def test_an_overlay_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="class map is"):
        overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), COLORS)


@pytest.mark.parametrize("size", [(3, 70_000), (700, 300), (1, 1), (200_000, 1)])
def test_large_and_long_pictures_are_painted_as_small_ones(size: tuple[int, int]) -> None:
    numbers = np.random.default_rng(2)
    class_map = numbers.integers(0, 3, size, dtype=np.uint8)
    image = numbers.integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colorize(class_map, COLORS), np.array(COLORS)[class_map])
    expected = (image.astype(float) + np.array(COLORS)[class_map]) / 2
    assert np.abs(overlay(image, class_map, COLORS) - expected).max() <= 1
    ignored = np.full(size, 255, np.uint8)
    stripe = max(2, min(size) // 40)
    stripes = np.add.outer(np.arange(size[0]), np.arange(size[1])) // stripe % 2
    np.testing.assert_array_equal(colorize(ignored, COLORS), np.array(IGNORE_COLORS)[stripes])
    np.testing.assert_array_equal(overlay(image, ignored, COLORS), image)
