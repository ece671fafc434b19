"""TIFFs by their tags: bands, planes, types, overviews, pages. Written by tifffile, or by hand where it would not."""

import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile

from protoseg_deploy.data import image_header, tiff
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading
from tests.data.image_files import RNG, UPRIGHT, image_of, mask_of, size_of

RGB = RNG.integers(60, 200, (20, 28, 3), dtype=np.uint8)
NIR = RNG.integers(0, 256, (20, 28, 1), dtype=np.uint8)
FOUR = np.concatenate([RGB, NIR], axis=-1)
FIVE = np.concatenate([FOUR, 255 - NIR], axis=-1)
DEEP = RGB.astype(np.uint16) * 257
GREY = {"photometric": "minisblack", "planarconfig": "contig"}


def write(path: Path, values: np.ndarray, **options: object) -> Path:
    tifffile.imwrite(path, values, metadata=None, **options)
    return path


def handmade(path: Path, values: np.ndarray, photometric: int, tags: dict[int, int]) -> Path:
    """A TIFF of one strip with just these tags: tifffile always says what further bands are."""
    height, width, bands = values.shape
    data = values.tobytes()
    entries = {256: width, 257: height, 259: 1, 262: photometric, 277: bands, 278: height, 284: 1, **tags}
    end = 8 + len(data)
    bits = struct.pack(f"<{bands}H", *[8 * values.itemsize] * bands)
    rows = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in {**entries, 273: 8, 279: len(data)}.items()]
    rows.append(struct.pack("<HHI", 258, 3, bands) + struct.pack("<I", end))
    rows.sort(key=lambda row: struct.unpack("<H", row[:2]))
    directory = struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    path.write_bytes(b"II*\0" + struct.pack("<I", end + len(bits)) + data + bits + directory)
    return path


@pytest.mark.parametrize("compression", [None, "lzw", "deflate"])
@pytest.mark.parametrize("meaning", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fourth_band_leaves_the_colours_alone(
    tmp_path: Path, compression: str | None, meaning: int, dtype: type
) -> None:
    if compression == "lzw":
        pytest.importorskip("imagecodecs")
    values = FOUR if dtype == np.uint8 else FOUR.astype(np.uint16) * 257
    for name, layout in (("contig", values), ("separate", values.transpose(2, 0, 1))):
        path = tmp_path / f"{name}.tif"
        write(path, layout, photometric="rgb", planarconfig=name, extrasamples=[meaning], compression=compression)
        np.testing.assert_array_equal(image_of(path), RGB, err_msg=name)
        np.testing.assert_array_equal(image_of(path, bands=(4, 2, 1)), FOUR[..., [3, 1, 0]], err_msg=name)
        assert image_header(path, ImageReading()).unused_bands == (1 if meaning == 0 else 0)
        assert image_header(path, ImageReading(bands=(1, 2, 3))).unused_bands == 0


def test_a_fourth_band_that_no_tag_explains_leaves_the_colours_alone(tmp_path: Path) -> None:
    path = handmade(tmp_path / "a.tif", FOUR, 2, {})
    np.testing.assert_array_equal(image_of(path), RGB)
    np.testing.assert_array_equal(image_of(path, alpha="apply"), RGB, err_msg="it is not declared as alpha")


@pytest.mark.parametrize("factor", [1, 257])
def test_declared_alpha_is_composited_where_it_is_asked_for(tmp_path: Path, factor: int) -> None:
    values = FOUR if factor == 1 else FOUR.astype(np.uint16) * 257
    path = write(tmp_path / "a.tif", values, photometric="rgb", extrasamples=[2])
    assert np.abs(image_of(path, alpha="apply") - RGB * (NIR / 255.0)).max() <= 1.0
    np.testing.assert_array_equal(image_of(path, alpha="apply", bands=(1, 2, 3)), RGB)


def test_other_numbers_of_bands_need_to_be_told(tmp_path: Path) -> None:
    five = write(tmp_path / "five.tif", FIVE, extrasamples=[0] * 4, **GREY)
    two = write(tmp_path / "two.tif", FIVE[..., :2], extrasamples=[0], **GREY)
    for path, bands in ((five, 5), (two, 2)):
        for read in (image_of, size_of):
            with pytest.raises(DataError, match=rf"{path.name}: TIFF with {bands} bands is not read") as caught:
                read(path)
            assert "data.bands" in caught.value.hint
        np.testing.assert_array_equal(image_of(path, bands=(2,)), np.repeat(FIVE[..., 1:2], 3, axis=2))
    np.testing.assert_array_equal(image_of(five, bands=(5, 3, 1)), FIVE[..., [4, 2, 0]])
    with pytest.raises(DataError, match=r"two\.tif: has 2 bands, data\.bands asks for band 3"):
        image_of(two, bands=(1, 2, 3))


def test_what_pillow_does_not_know_is_no_damage(tmp_path: Path) -> None:
    grey = np.repeat(RGB[..., :1], 3, axis=2)
    for name, values, options, wanted in (
        ("planar", RGB.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
        ("16 bits", DEEP, {"extrasamples": [0, 0], **GREY}, RGB),
        ("16 bits planar", DEEP.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}, RGB),
        ("big", RGB, {"photometric": "rgb", "bigtiff": True}, RGB),
        ("big-endian", DEEP[..., 0], {"photometric": "minisblack", "byteorder": ">"}, grey),
        ("tiles", RGB, {"photometric": "rgb", "tile": (16, 16)}, RGB),
        ("grey with alpha", RGB[..., :2], {"extrasamples": [2], **GREY}, grey),
        ("white is 0", 255 - RGB[..., 0], {"photometric": "miniswhite"}, grey),
        ("white is 0, 16 bits", 65535 - DEEP[..., 0], {"photometric": "miniswhite"}, grey),
    ):
        path = write(tmp_path / "a.tif", values, **options)
        np.testing.assert_array_equal(image_of(path), wanted, err_msg=name)
        assert size_of(path) == (20, 28)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "int32", "uint32", "uint64"])
@pytest.mark.parametrize("bands", [1, 3])
def test_types_without_a_range_of_their_own_need_one(tmp_path: Path, dtype: str, bands: int) -> None:
    values = (RGB[..., :bands] // 2).astype(dtype)
    path = write(tmp_path / "a.tif", values.squeeze(), photometric="minisblack" if bands == 1 else "rgb")
    with pytest.raises(DataError, match=r"a\.tif: .*value range is unknown") as caught:
        image_of(path)
    assert "data.value_range" in caught.value.hint
    wanted = np.floor((RGB[..., :bands] // 2) / 127 * 255 + 0.5)
    np.testing.assert_array_equal(image_of(path, value_range=(0, 127)), np.broadcast_to(wanted, RGB.shape))


def test_floats_that_are_none_are_black_and_others_are_cut_off(tmp_path: Path) -> None:
    values = np.array([[np.nan, -np.inf, np.inf, -1e300, 1e300, 0.5]])
    path = write(tmp_path / "a.tif", values, photometric="minisblack")
    np.testing.assert_array_equal(image_of(path, value_range=(0, 1))[0, :, 0], [0, 0, 255, 0, 255, 128])


def test_16_bit_colours_are_exact_where_a_range_is_given(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (20, 28, 3)).astype(np.uint16)
    path = write(tmp_path / "a.tif", values, photometric="rgb")
    np.testing.assert_array_equal(image_of(path, value_range=(0, 4095)), np.floor(values / 4095 * 255 + 0.5))


def test_overviews_and_masks_are_no_pages_and_the_first_picture_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for values in (RGB, FOUR, DEEP):  # of which Pillow and tifffile decode some each
        extra = {"extrasamples": [0]} if values.shape[2] == 4 else {}
        with tifffile.TiffWriter(path) as writer:
            writer.write(values[::4, ::4], photometric="rgb", subfiletype=1, metadata=None, **extra)
            writer.write(values, photometric="rgb", metadata=None, **extra)
            writer.write(values[::2, ::2], photometric="rgb", subfiletype=1, metadata=None, **extra)
            writer.write(NIR[..., 0] > 9, photometric="minisblack", subfiletype=4, metadata=None)
        np.testing.assert_array_equal(image_of(path), RGB)
        assert size_of(path) == (20, 28)


def test_several_pages_are_refused_whatever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as writer:
        for values in (RGB, RGB[:8], RGB):
            writer.write(values, photometric="rgb", metadata=None)
    for read in (image_of, size_of, mask_of):
        with pytest.raises(DataError, match=r"a\.tif: TIFF with 3 frames or pages"):
            read(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_holds_whoever_decodes(tmp_path: Path, orientation: int) -> None:
    tag = [(274, 3, 1, orientation, True)]
    pillow = write(tmp_path / "a.tif", RGB, photometric="rgb", extratags=tag)
    other = write(tmp_path / "b.tif", FIVE, extrasamples=[0] * 4, extratags=tag, **GREY)
    for path, options in ((pillow, {}), (other, {"bands": (1, 2, 3)})):
        turned = image_of(path, **options)
        np.testing.assert_array_equal(turned, UPRIGHT[orientation](RGB))
        assert size_of(path, **options) == turned.shape[:2]
        np.testing.assert_array_equal(image_of(path, exif="ignore", **options), RGB)
        assert size_of(path, exif="ignore", **options) == RGB.shape[:2]


def test_a_size_that_is_too_large_is_refused_from_the_tags(tmp_path: Path) -> None:
    small = write(tmp_path / "a.tif", FIVE, extrasamples=[0] * 4, **GREY).read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        places = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    content = bytearray(small)
    for place in places:
        content[place : place + 2] = struct.pack("<H", 60_000)
    (tmp_path / "a.tif").write_bytes(content)
    for read in (image_of, mask_of, size_of):
        with pytest.raises(DataError, match=r"a\.tif: too large: 60000x60000 pixels, 3,600,000,000 in all"):
            read(tmp_path / "a.tif")


def test_a_codec_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagecodecs")
    path = write(tmp_path / "a.tif", FIVE, extrasamples=[0] * 4, compression="lzw", **GREY)

    def asarray(*_: object, **__: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", asarray)
    with pytest.raises(DataError, match=r"a\.tif: .*LZW") as caught:
        image_of(path, bands=(1, 2, 3))
    assert "protoseg-deploy[tiff]" in caught.value.hint


def test_unusual_samples_are_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", RGB[..., 0].astype(np.complex64), photometric="minisblack")
    for read in (image_of, mask_of):
        with pytest.raises(DataError, match=r"a\.tif: "):
            read(path)
    assert not tiff.is_tiff(b"\x89PNG")
