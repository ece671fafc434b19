"""Reading masks of every kind that turns up in practice."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from protoseg_deploy.data import open_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data, MaskReading, mask_reading
from tests.data.image_files import (
    GREY,
    INDICES,
    RGB,
    RNG,
    deep_png,
    mask_of,
    packed_grey_png,
    save,
    with_orientation,
)

COLORS = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (10, 20, 30))
COLORED = np.array(COLORS, np.uint8)[INDICES]


def test_masks_keep_their_indices(tmp_path: Path) -> None:
    palette = Image.fromarray(INDICES, "P")
    palette.putpalette([value for color in range(4) for value in (color * 50, 0, 255 - color)])
    binary = INDICES % 2
    for name, stored, wanted in (
        ("grey.png", INDICES, INDICES),
        ("palette.png", palette, INDICES),
        ("16bit.png", INDICES.astype(np.uint16), INDICES),
        ("1bit.png", binary.astype(bool), binary),
        ("grey.tif", INDICES, INDICES),
    ):
        mask = mask_of(save(tmp_path / name, stored))
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, wanted, err_msg=name)
        mask[0, 0] = 3


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_packed_grey_masks_are_not_stretched(tmp_path: Path, bits: int) -> None:
    values = RNG.integers(0, 2**bits, (5, 7))
    np.testing.assert_array_equal(mask_of(packed_grey_png(tmp_path / "a.png", values, bits)), values)


def test_the_value_map_replaces_all_values_at_once(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[0, 1, 2, 11, 255]], dtype=np.uint8))
    np.testing.assert_array_equal(mask_of(path, value_map={1: 2, 2: 1, 11: 255}), [[0, 2, 1, 255, 255]])


def test_masks_that_hold_no_indices_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: a colour mask") as caught:
        mask_of(save(tmp_path / "a.png", RGB))
    assert "class indices" in caught.value.hint
    with pytest.raises(DataError, match=r"b\.jpg: .*JPEG"):
        mask_of(save(tmp_path / "b.jpg", GREY))
    with pytest.raises(DataError, match=r"c\.png: .*1000"):
        mask_of(save(tmp_path / "c.png", np.full((2, 2), 1000, dtype=np.uint16)))
    with pytest.raises(DataError, match=r"d\.png: .*transparent"):
        mask_of(save(tmp_path / "d.png", Image.new("LA", (2, 2))))


def test_colours_of_the_classes_become_their_indices(tmp_path: Path) -> None:
    opaque = np.full((*INDICES.shape, 1), 255, np.uint8)
    for name, stored in (
        ("rgb.png", COLORED),
        ("rgb.bmp", COLORED),
        ("rgb.tif", COLORED),
        ("rgba.png", np.concatenate([COLORED, opaque], axis=-1)),
    ):
        np.testing.assert_array_equal(mask_of(save(tmp_path / name, stored), colors=COLORS), INDICES, err_msg=name)
    border = COLORED.copy()
    border[0] = (224, 224, 192)
    path = save(tmp_path / "border.png", border)
    with pytest.raises(DataError, match=r"border\.png: .*\(224, 224, 192\) in 9") as caught:
        mask_of(path, colors=COLORS)
    assert "data.colors" in caught.value.hint
    assert "data.ignore_colors" in caught.value.hint
    blurred = COLORED.copy()
    blurred[0] = (255, 3, 8)
    with pytest.raises(DataError, match=r"\(255, 3, 8\) in 9 \(almost class 1, \(255, 0, 0\)\)"):
        mask_of(save(tmp_path / "blurred.png", blurred), colors=COLORS)
    found = mask_of(path, colors=COLORS, ignore_colors=[(224, 224, 192)], ignore_index=77)
    assert (found[0] == 77).all()
    np.testing.assert_array_equal(found[1:], INDICES[1:])


def test_colours_of_a_recipe_are_those_of_its_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[[0, 0, 0], [9, 9, 9]]], np.uint8))
    reading = mask_reading(Data(classes=["scratch"], colors=[(9, 9, 9)]))
    np.testing.assert_array_equal(open_mask(path, reading).indices, [[0, 1]], err_msg="black is the background")


def test_many_strange_colours_are_counted_and_some_named(tmp_path: Path) -> None:
    noise = np.arange(400 * 3).reshape(20, 20, 3).astype(np.uint8)
    noise[0] = (1, 2, 3)
    with pytest.raises(DataError, match=r"\(1, 2, 3\) in 21 .*more colours, 400 pixels in all") as caught:
        mask_of(save(tmp_path / "a.png", noise), colors=COLORS)
    assert len(caught.value.message) < 1000


def test_a_colour_that_two_classes_share_means_neither(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[[0, 0, 0], [5, 5, 6]]], np.uint8))
    with pytest.raises(DataError, match=r"\(5, 5, 6\), which means 1 and 2"):
        mask_of(path, colors=[(0, 0, 0), (5, 5, 6), (5, 5, 6)])


def test_grey_saved_as_colours_holds_indices(tmp_path: Path) -> None:
    for channels in (3, 4):
        stored = np.repeat(INDICES[..., None], channels, axis=2)
        stored[..., 3:] = 255
        path = save(tmp_path / f"{channels}.png", stored)
        np.testing.assert_array_equal(mask_of(path), INDICES)
        np.testing.assert_array_equal(mask_of(path, colors=((0, 0, 0), (255, 0, 0))), INDICES)
    grey_alpha = np.stack([INDICES, np.full_like(INDICES, 255)], axis=-1)
    np.testing.assert_array_equal(mask_of(save(tmp_path / "la.png", Image.fromarray(grey_alpha, "LA"))), INDICES)


def test_grey_that_is_the_colour_of_a_class_is_that_colour(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.array([[[0] * 3, [255] * 3]], np.uint8))
    np.testing.assert_array_equal(mask_of(path, colors=((255, 255, 255), (0, 0, 0))), [[1, 0]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_integers_of_any_width_are_read_where_they_fit(tmp_path: Path, dtype: str, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, INDICES.astype(dtype), photometric="minisblack", compression=compression)
    np.testing.assert_array_equal(mask_of(path), INDICES)
    if np.dtype(dtype).itemsize > 1:
        tifffile.imwrite(path, (INDICES.astype(dtype) + 254), photometric="minisblack", compression=compression)
        with pytest.raises(DataError, match=rf"a\.tif: .*{int(INDICES.max()) + 254}"):
            mask_of(path)
    if dtype.startswith("int"):
        tifffile.imwrite(path, INDICES.astype(dtype) - 1, photometric="minisblack", compression=compression)
        with pytest.raises(DataError, match=r"a\.tif: .*-1"):
            mask_of(path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_whole_floats_are_indices_and_others_are_not(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, INDICES.astype(dtype), photometric="minisblack")
    np.testing.assert_array_equal(mask_of(path), INDICES)
    for wrong in (0.5, np.nan, np.inf, 256, -1):
        values = INDICES.astype(dtype)
        values[2, 2] = wrong
        tifffile.imwrite(path, values, photometric="minisblack")
        with pytest.raises(DataError, match=r"a\.tif: "):
            mask_of(path)


def test_a_mask_of_many_bands_or_pages_is_refused_and_an_overview_is_none(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.repeat(INDICES[..., None], 5, axis=2), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"a\.tif: .*5"):
        mask_of(path)
    with tifffile.TiffWriter(path) as writer:
        writer.write(INDICES, photometric="minisblack")
        writer.write(INDICES[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(mask_of(path), INDICES)


def test_lossy_compression_inside_a_tiff_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", np.kron(GREY, np.ones((16, 16), np.uint8)), compression="jpeg")
    with pytest.raises(DataError, match=r"a\.tif: JPEG"):
        mask_of(path)


def test_colours_of_16_bits_are_no_mask(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: .*16 bits"):
        mask_of(deep_png(tmp_path / "a.png", np.repeat(INDICES[..., None], 3, axis=2)), colors=COLORS)


def test_transparent_pixels_are_no_class(tmp_path: Path) -> None:
    stored = np.concatenate([COLORED, np.full((*INDICES.shape, 1), 255, np.uint8)], axis=-1)
    stored[0, 0, 3] = 0
    with pytest.raises(DataError, match=r"a\.png: .*transparent"):
        mask_of(save(tmp_path / "a.png", stored), colors=COLORS)


def test_a_mask_says_what_its_palette_shows(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 2, 2]], np.uint8), "P")
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    mask = open_mask(save(tmp_path / "a.png", image), MaskReading(value_map={2: 1}))
    assert mask.palette == {0: (1, 2, 3), 2: (7, 8, 9)}, "stored indices that occur, before the value map"
    np.testing.assert_array_equal(mask.indices, [[0, 1, 1]])
    assert open_mask(save(tmp_path / "b.png", INDICES), MaskReading()).palette is None


def test_orientation_is_that_of_the_images(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", INDICES, exif=with_orientation(6))
    np.testing.assert_array_equal(mask_of(path, exif="apply"), np.rot90(INDICES, -1))
    np.testing.assert_array_equal(mask_of(path, exif="ignore"), INDICES)
    assert open_mask(path, MaskReading(exif="ignore")).orientation == 6


def test_many_classes_are_told_apart_by_colour(tmp_path: Path) -> None:
    colors = [tuple(color) for color in RNG.choice(256, (400, 3))]
    colors = list(dict.fromkeys(colors))[:200]
    indices = RNG.integers(0, 200, (30, 30)).astype(np.uint8)
    path = save(tmp_path / "a.png", np.array(colors, np.uint8)[indices])
    np.testing.assert_array_equal(mask_of(path, colors=colors), indices)
