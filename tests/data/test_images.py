"""Reading images and masks of every kind that turns up in practice."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data import image_size, read_image, read_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading, MaskReading

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 9), dtype=np.uint8)
INDICES = RNG.integers(0, 4, (6, 9), dtype=np.uint8)

# What a viewer does to the stored pixels for each EXIF orientation, in NumPy.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def image_of(path: Path, **options: object) -> np.ndarray:
    return read_image(path, ImageReading(**options))


def mask_of(path: Path, **options: object) -> np.ndarray:
    return read_mask(path, MaskReading(**options))


def size_of(path: Path, **options: object) -> tuple[int, int]:
    return image_size(path, ImageReading(**options))


def save(path: Path, image: np.ndarray | Image.Image, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def packed_grey_png(path: Path, values: np.ndarray, bits: int) -> Path:
    """A grey PNG of 1, 2 or 4 bits, which Pillow cannot write."""
    height, width = values.shape
    rows = b""
    for row in values:
        digits = "".join(format(int(value), f"0{bits}b") for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_rgb_comes_back_unchanged_and_writable(tmp_path: Path, suffix: str) -> None:
    image = image_of(save(tmp_path / f"a.{suffix}", RGB))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, RGB)
    image[0, 0] = 0


def test_grey_is_repeated_over_the_channels(tmp_path: Path) -> None:
    np.testing.assert_array_equal(image_of(save(tmp_path / "a.png", GREY)), np.stack([GREY] * 3, axis=-1))


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled_by_the_full_range(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 257, 32896, 65535, 300]], dtype=np.uint16)
    image = image_of(save(tmp_path / f"a.{suffix}", values))
    np.testing.assert_array_equal(image[0, :, 0], [0, 1, 128, 255, 1])
    assert (image[..., 0] == image[..., 2]).all()


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    image = Image.fromarray(INDICES, "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 8, 7])
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 8, 7]])
    np.testing.assert_array_equal(image_of(save(tmp_path / "a.png", image)), colors[INDICES])


def test_alpha_is_composited_on_black(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    path = save(tmp_path / "a.png", np.concatenate([RGB, alpha], axis=-1))
    wanted = RGB * (alpha / 255.0)
    assert np.abs(image_of(path) - wanted).max() <= 1.0
    opaque = save(tmp_path / "b.png", np.concatenate([RGB, np.full_like(alpha, 255)], axis=-1))
    np.testing.assert_array_equal(image_of(opaque), RGB)


def test_grey_with_alpha_and_transparent_palette_entries(tmp_path: Path) -> None:
    grey = save(tmp_path / "a.png", Image.fromarray(np.array([[[200, 255], [200, 0]]], dtype=np.uint8), "LA"))
    np.testing.assert_array_equal(image_of(grey)[0], [[200] * 3, [0] * 3])
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    np.testing.assert_array_equal(
        image_of(save(tmp_path / "b.png", image, transparency=1))[0], [[10, 20, 30], [0, 0, 0]]
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("tif", {}), ("webp", {"lossless": True})])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str, options: dict[str, object]) -> None:
    path = save(tmp_path / f"a.{suffix}", RGB, exif=with_orientation(orientation), **options)
    image = image_of(path)
    np.testing.assert_array_equal(image, UPRIGHT[orientation](RGB))
    assert size_of(path) == image.shape[:2]


def test_exif_orientation_of_a_jpeg_and_of_its_mask(tmp_path: Path) -> None:
    blocks = np.kron(RGB[:2, :3] // 128 * 255, np.ones((16, 16, 1), dtype=np.uint8))
    photo = save(tmp_path / "a.jpg", blocks, exif=with_orientation(6), quality=100, subsampling=0)
    assert size_of(photo) == (48, 32)
    assert np.abs(image_of(photo).astype(int) - np.rot90(blocks, -1)).max() < 16
    mask = save(tmp_path / "a.png", INDICES, exif=with_orientation(6))
    np.testing.assert_array_equal(mask_of(mask), np.rot90(INDICES, -1))


def test_cmyk_is_converted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=100)
    assert np.abs(image_of(path).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_several_frames_are_refused(tmp_path: Path, name: str) -> None:
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match=f"{name}: .* 2 frames or pages"):
        image_of(path)


@pytest.mark.parametrize("values", [np.zeros((3, 3), np.float32), np.zeros((3, 3), np.int32)])
def test_float_and_32_bit_images_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"a\.tif: .*32 image"):
        image_of(save(tmp_path / "a.tif", values))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"a.{suffix}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    for read in (image_of, mask_of):
        with pytest.raises(DataError, match=rf"a\.{suffix}: "):
            read(path)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, reason in (("empty.png", "empty"), ("text.jpg", "not an image"), ("gone.png", "no such file")):
        for read in (image_of, size_of, mask_of):
            with pytest.raises(DataError, match=f"{name}: .*{reason}"):
                read(tmp_path / name)
    with pytest.raises(DataError, match="a folder"):
        image_of(tmp_path)


def test_damaged_bytes_never_raise_anything_but_data_errors(tmp_path: Path) -> None:
    noise = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    refused = 0
    for suffix in ("jpg", "png", "gif", "bmp", "webp", "ppm"):
        content = save(tmp_path / f"a.{suffix}", noise).read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for position in RNG.integers(0, min(len(damaged), 150), 3):
                damaged[position] = RNG.integers(0, 256)
            path = tmp_path / f"b.{suffix}"
            path.write_bytes(damaged)
            try:
                assert image_of(path).shape[2] == 3
            except DataError:
                refused += 1
    assert refused > 0


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
