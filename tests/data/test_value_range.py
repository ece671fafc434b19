"""Percentiles of a recipe: measured once over its images, the same for every image from then on."""

from pathlib import Path

import numpy as np
import pytest

from protoseg_deploy.data import find_data, with_measured_range
from protoseg_deploy.data.scaling import to_uint8
from protoseg_deploy.errors import DataError, RecipeError
from protoseg_deploy.recipe import Recipe, image_reading, recipe_from_dict
from tests.conftest import recipe_tree
from tests.data.image_files import save


def recipe_of(root: Path, **data: object) -> Recipe:
    tree = recipe_tree(root)
    tree["data"] |= data
    return recipe_from_dict(tree, "test")


@pytest.fixture
def twelve_bits(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """Grey images of 12 bits in 16, and all their values but those for validation."""
    random = np.random.default_rng(3)
    values = []
    for part, count in (("labeled", 3), ("unlabeled", 5), ("val", 2)):
        for folder in ("images", "masks"):
            (tmp_path / part / folder).mkdir(parents=True)
        for number in range(count):
            image = random.integers(100, 4000, (24, 32)).astype(np.uint16)
            image += 60_000 if part == "val" else 0
            save(tmp_path / part / "images" / f"{number}.png", image)
            save(tmp_path / part / "masks" / f"{number}.png", random.integers(0, 3, (24, 32)).astype(np.uint8))
            values += [image] if part != "val" else []
    return tmp_path, np.concatenate(values)


def test_percentiles_become_numbers_over_the_images_learnt_from(twelve_bits: tuple[Path, np.ndarray]) -> None:
    root, values = twelve_bits
    recipe = recipe_of(root, value_range="percentile_2_98")
    with pytest.raises(ValueError, match="has not been measured"):
        image_reading(recipe.data)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    measured = with_measured_range(recipe, sets)
    assert measured.data.value_range == pytest.approx(tuple(np.percentile(values, [2, 98])))
    assert measured.data.value_range_from == "percentile_2_98"
    assert with_measured_range(measured, sets) == measured, "it is not measured again"
    assert with_measured_range(recipe, sets) == measured


def test_images_that_cannot_be_measured_are_left_out(twelve_bits: tuple[Path, np.ndarray]) -> None:
    root, values = twelve_bits
    recipe = recipe_of(root, value_range="percentile_0_100")
    (root / "unlabeled/images/0.png").write_text("no image")
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    low, high = with_measured_range(recipe, sets).data.value_range
    assert values.min() <= low < high <= values.max()
    for path in [*sets.unlabeled, *(sample.image for sample in sets.labeled)]:
        save(path, np.full((8, 8), 7, np.uint16))
    with pytest.raises(DataError, match="both percentiles of 8 images are 7"):
        with_measured_range(recipe, sets)
    for path in [*sets.unlabeled, *(sample.image for sample in sets.labeled)]:
        path.write_text("no image")
    with pytest.raises(DataError, match="none of 8 images could be measured"):
        with_measured_range(recipe, sets)


@pytest.mark.parametrize(
    "value",
    ["percentile", "percentile_98_2", "percentile_2_101", "percentile_2_2", "minmax", [1], [2, 1], [1, 1], [0, ".inf"]],
)
def test_ranges_that_are_none_are_errors_of_the_recipe(tmp_path: Path, value: object) -> None:
    with pytest.raises(RecipeError, match=r"data\.value_range"):
        recipe_of(tmp_path, value_range=[float("inf") if part == ".inf" else part for part in value])
    for kind in (4095, True, {"low": 0}, [0, 1, 2]):
        with pytest.raises(RecipeError, match=r"data\.value_range: a range is \[LOW, HIGH\] or percentiles such as"):
            recipe_of(tmp_path, value_range=kind)
    if isinstance(value, str):
        with pytest.raises(RecipeError, match=r"data\.value_range: .*percentile_2_98"):
            recipe_of(tmp_path, value_range=value)


@pytest.mark.parametrize("bands", [[], [0], [1, 2], [1, 2, 3, 4], [1, 2, -3]])
def test_bands_that_are_none_are_errors_of_the_recipe(tmp_path: Path, bands: list[int]) -> None:
    with pytest.raises(RecipeError, match=r"data\.bands"):
        recipe_of(tmp_path, bands=bands)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
def test_scaling_is_that_of_the_formula(dtype: str) -> None:
    values = np.random.default_rng(0).uniform(0, 255, (7, 5, 3)).astype(dtype)
    expected = [min(255, max(0, int(255 * (float(value) - 20) / 150 + 0.5))) for value in values.ravel()]
    np.testing.assert_array_equal(to_uint8(values, 20, 170).ravel(), expected)
    assert to_uint8(np.zeros((3, 0)), 0, 1).shape == (3, 0)
