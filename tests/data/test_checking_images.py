"""The check of the data: how images are stored: their orientation, range and bands."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from protoseg_deploy.data import find_data
from protoseg_deploy.errors import DataError
from tests.data.small_data import check, recipe_for, write


def oriented(path: Path, orientation: int, values: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(values).save(path, exif=exif)


def pairs_of(root: Path) -> list[tuple[Path, Path]]:
    sets = find_data(recipe_for(root).data, need_unlabeled=False, need_val=False)
    return [(sample.image, sample.mask) for sample in sets.labeled]


def test_an_image_that_exif_turned_says_so_where_its_mask_differs_in_size(root: Path) -> None:
    image, mask = pairs_of(root)[0]
    oriented(image, 6, np.asarray(Image.open(image)))
    with pytest.raises(DataError, match=r"turned by its EXIF orientation 6; .*data\.exif: ignore") as caught:
        check(root)
    assert mask.name in caught.value.message
    assert check(root, data={"exif": "ignore"}).labeled.images == 4


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_an_image_that_exif_turned_without_its_mask_is_a_warning(root: Path, orientation: int) -> None:
    image, mask = pairs_of(root)[0]
    oriented(image, orientation, np.asarray(Image.open(image)))
    text = "\n".join(check(root).warnings)
    assert f"1 image has an EXIF orientation that turns the image but not its mask, such as {image}" in text
    assert "EXIF" not in "\n".join(check(root, data={"exif": "ignore"}).warnings)
    oriented(mask, orientation, np.asarray(Image.open(mask)))
    assert "EXIF" not in "\n".join(check(root).warnings), "both are turned"


def test_images_that_are_almost_one_value_are_a_warning(root: Path) -> None:
    assert "less than a tenth" not in "\n".join(check(root).warnings)
    image, _ = pairs_of(root)[0]
    dark = np.asarray(Image.open(image).convert("L")).astype(np.uint16) * 16
    write(image, dark)
    text = "\n".join(check(root).warnings)
    assert f"1 image uses less than a tenth of the values from black to white, such as {image}" in text
    assert "data.value_range" in text


def test_one_range_does_not_suit_8_bits_and_16(root: Path) -> None:
    image, _ = pairs_of(root)[0]
    write(image, np.asarray(Image.open(image).convert("L")).astype(np.uint16) * 16)
    assert "where others have 8 bits, convert these to 8 bits instead" in "\n".join(check(root).warnings)
    (warning,) = [t for t in check(root, data={"value_range": [0, 4095]}).warnings if "less than a tenth" in t]
    assert warning.startswith("11 images use"), "those of 8 bits are nearly black now"
    assert "set data.value_range" not in warning, "it is set"


def test_a_fourth_band_that_is_passed_over_is_a_warning(root: Path) -> None:
    image, _ = pairs_of(root)[0]
    height, width = np.asarray(Image.open(image)).shape[:2]
    four = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    tifffile.imwrite(root / "more" / "extra.tif", four, photometric="rgb", extrasamples=[0])
    assert "1 TIFF with 4 bands" in "\n".join(check(root).warnings)


def test_percentiles_are_measured_for_a_check_too(root: Path) -> None:
    assert check(root, data={"value_range": "percentile_1_99"}).labeled.images == 4
