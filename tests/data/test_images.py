"""Reading images of every kind that turns up in practice."""

import os
import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data import formats, image_header, images, used_share
from protoseg_deploy.data.images import decode_image
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading
from tests.data.image_files import (
    GREY,
    INDICES,
    RGB,
    RNG,
    UPRIGHT,
    deep_png,
    image_of,
    mask_of,
    packed_grey_png,
    save,
    size_of,
    with_orientation,
    write_png,
)


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


def test_frames_of_an_animation_are_not_decoded_to_be_refused() -> None:
    """They may claim any size: here one that their content is too short for."""
    file = BytesIO()
    frames = [Image.new("L", (8, 8), grey) for grey in (0, 80, 160)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    small = struct.pack("<HHHH", 0, 0, 8, 8)
    first, content = file.getvalue().index(b"," + small), file.getvalue()
    content = content[: first + 9] + content[first + 9 :].replace(
        b"," + small, b"," + struct.pack("<HHHH", 0, 0, 3000, 3000)
    )
    with pytest.raises(DataError, match="GIF with at least 2 frames"):
        decode_image(content, "a.gif")


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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "options"), [("png", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})])
def test_exif_orientation_can_be_ignored(
    tmp_path: Path, orientation: int, suffix: str, options: dict[str, object]
) -> None:
    path = save(tmp_path / f"a.{suffix}", RGB, exif=with_orientation(orientation), **options)
    np.testing.assert_array_equal(image_of(path, exif="ignore"), RGB)
    assert size_of(path, exif="ignore") == RGB.shape[:2]
    assert image_header(path, ImageReading()).orientation == orientation


def test_an_orientation_that_is_none_changes_nothing(tmp_path: Path) -> None:
    for number in (0, 9, 65535):
        path = save(tmp_path / f"{number}.png", RGB, exif=with_orientation(number))
        np.testing.assert_array_equal(image_of(path), RGB)


def test_bands_of_ordinary_files(tmp_path: Path) -> None:
    alpha = RNG.integers(0, 256, (6, 9, 1), dtype=np.uint8)
    rgba = save(tmp_path / "rgba.png", np.concatenate([RGB, alpha], axis=-1))
    np.testing.assert_array_equal(image_of(rgba, bands=(1, 2, 3)), RGB)
    np.testing.assert_array_equal(image_of(rgba, bands=(3, 2, 1)), RGB[..., ::-1])
    np.testing.assert_array_equal(image_of(rgba, bands=(4,)), np.repeat(alpha, 3, axis=2))
    np.testing.assert_array_equal(image_of(rgba, alpha="ignore"), RGB)
    grey_alpha = save(tmp_path / "la.png", Image.fromarray(np.concatenate([GREY[..., None], alpha], axis=-1), "LA"))
    np.testing.assert_array_equal(image_of(grey_alpha, bands=(1,)), np.stack([GREY] * 3, axis=-1))
    np.testing.assert_array_equal(image_of(grey_alpha, alpha="ignore"), np.stack([GREY] * 3, axis=-1))
    palette = Image.fromarray(INDICES, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 8, 7])
    red = np.array([0, 255, 0, 9])[INDICES]
    found = image_of(save(tmp_path / "p.png", palette), bands=(1,))
    np.testing.assert_array_equal(found, np.stack([red] * 3, axis=-1))
    with pytest.raises(DataError, match=r"grey\.png: has 1 band, data\.bands asks for band 3"):
        image_of(save(tmp_path / "grey.png", GREY), bands=(1, 2, 3))


def test_a_range_of_values_makes_12_bits_in_16_bright(tmp_path: Path) -> None:
    values = RNG.integers(0, 4096, (6, 9, 3)).astype(np.uint16)
    wanted = np.floor(values / 4095 * 255 + 0.5).astype(np.uint8)
    for path, expected in (
        (save(tmp_path / "grey.png", values[..., 0]), np.repeat(wanted[..., :1], 3, axis=2)),
        (deep_png(tmp_path / "rgb.png", values), wanted),
        (deep_png(tmp_path / "rgba.png", np.concatenate([values, values[..., :1]], axis=-1)), wanted),
        (deep_png(tmp_path / "la.png", values[..., :2]), np.repeat(wanted[..., :1], 3, axis=2)),
    ):
        np.testing.assert_array_equal(image_of(path, value_range=(0, 4095)), expected, err_msg=path.name)
        assert used_share(image_of(path)) < 0.1 < used_share(image_of(path, value_range=(0, 4095)))
    cut = image_of(tmp_path / "grey.png", value_range=(1000, 2000))[..., 0]
    assert (cut[values[..., 0] <= 1000] == 0).all()
    assert (cut[values[..., 0] >= 2000] == 255).all()


def test_a_range_of_values_applies_to_8_bits_too(tmp_path: Path) -> None:
    image = image_of(save(tmp_path / "a.png", np.array([[0, 50, 100, 200]], np.uint8)), value_range=(0, 100))
    np.testing.assert_array_equal(image[0, :, 0], [0, 128, 255, 255])


def test_netpbm_values_are_those_of_the_file(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2, 3], [3, 2, 1, 0]], np.uint8)
    grey, deep = tmp_path / "a.pgm", tmp_path / "b.pgm"
    grey.write_bytes(b"P5 4 2 3\n" + values.tobytes())
    deep.write_bytes(b"P5 4 2 4095\n" + (values.astype(int) * 1365).astype(">u2").tobytes())
    for path in (grey, deep):  # the file itself says what is white
        np.testing.assert_array_equal(image_of(path)[..., 0], values * 85)
    np.testing.assert_array_equal(image_of(grey, value_range=(0, 3))[..., 0], values * 85)
    np.testing.assert_array_equal(image_of(deep, value_range=(0, 4095))[..., 0], values * 85)
    np.testing.assert_array_equal(mask_of(grey), values)
    colors = tmp_path / "c.ppm"
    colors.write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(DataError, match=r"c\.ppm: values of 16 bits"):
        image_of(colors, value_range=(0, 4095))


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_grey_is_stretched_to_black_and_white(tmp_path: Path, bits: int) -> None:
    values = RNG.integers(0, 2**bits, (5, 7))
    path = packed_grey_png(tmp_path / "a.png", values, bits)
    np.testing.assert_array_equal(image_of(path)[..., 0], values * (255 // (2**bits - 1)))
    np.testing.assert_array_equal(image_of(path, value_range=(0, 2**bits - 1)), image_of(path))


def test_a_palette_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", (4, 1, 8, 3), b"\0\0\1\2\3")
    for read in (image_of, mask_of):
        with pytest.raises(DataError, match=r"a\.png: .*palette"):
            read(path)


def test_a_size_that_is_too_large_is_refused_from_the_header(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", (70_000, 60_000, 1, 0), b"")
    for read in (image_of, mask_of, size_of):
        with pytest.raises(DataError, match=r"a\.png: too large: .*4200000000|a\.png: .*4,200,000,000"):
            read(path)


def test_a_header_that_no_such_small_file_can_keep_is_not_believed(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", (30_000, 30_000, 8, 2), b"")
    for read in (image_of, mask_of, size_of):
        with pytest.raises(DataError, match=r"a\.png: damaged: its header claims 30000x30000 pixels"):
            read(path)


def test_a_lack_of_memory_is_an_error_of_that_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", RGB)

    def fail(*_: object) -> None:
        raise MemoryError

    for place in ("_eight_bit", "_rgb"):
        with monkeypatch.context() as patch:
            patch.setattr(images, place, fail)
            with pytest.raises(DataError, match=r"a\.png: too large"):
                image_of(path)


def test_files_that_are_none_are_named_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, reason in (
        (tmp_path / "pipe.png", "a named pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path / ("long" * 100 + ".png"), "too long"),
        (tmp_path / "nul\0.png", "null"),
    ):
        for read in (image_of, mask_of, size_of):
            with pytest.raises(DataError, match=reason):
                read(path)


def test_no_other_program_is_started_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called = tmp_path / "called"
    for name in ("gs", "gswin64c"):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\ntouch {called}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    path = tmp_path / "photo.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n")
    for read in (image_of, mask_of, size_of):
        with pytest.raises(DataError, match=r"photo\.png: PostScript, which is not read"):
            read(path)
    assert not called.exists()


@pytest.mark.parametrize("kind", ["TGA", "PCX", "SGI", "ICO", "PDF", "DDS"])
def test_only_formats_of_the_list_are_read_whatever_a_file_is_called(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.png"
    save(path, RGB, format=kind)
    with pytest.raises(DataError, match=r"a\.png: ") as caught:
        image_of(path)
    assert "PNG" in caught.value.hint


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", np.full((8, 8, 3), 99, np.uint8), format="JPEG", quality=100)
    assert np.abs(image_of(path).astype(int) - 99).max() <= 2
    with pytest.raises(DataError, match=r"a\.png: JPEG"):
        mask_of(path)


@pytest.mark.parametrize("suffix", [".avif", ".jp2", ".heic"])
def test_further_formats_are_read_where_they_can_be(tmp_path: Path, suffix: str) -> None:
    if suffix not in formats.IMAGE_SUFFIXES:
        pytest.skip(f"{suffix} is not read here")
    image = Image.new("RGB", (32, 24), (200, 60, 20))
    path = tmp_path / f"a{suffix}"
    if suffix == ".heic":
        pillow_heif = pytest.importorskip("pillow_heif")
        pillow_heif.from_pillow(image).save(path, quality=100)
    else:
        save(path, image)
    assert size_of(path) == (24, 32)
    assert np.abs(image_of(path).astype(int) - [200, 60, 20]).max() < 12


def test_heic_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "has_heif", lambda: False)
    path = tmp_path / "a.heic"
    path.write_bytes(struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(100))
    with pytest.raises(DataError, match=r"a\.heic: a HEIC image") as caught:
        image_of(path)
    assert "protoseg-deploy[heic]" in caught.value.hint
    assert "protoseg-deploy[heic]" in formats.missing_reader(".HEIC")
    assert formats.missing_reader(".txt") == ""


def test_jpeg_2000_of_12_bits_has_a_range(tmp_path: Path) -> None:
    if ".jp2" not in formats.IMAGE_SUFFIXES:
        pytest.skip("JPEG 2000 is not read here")
    values = RNG.integers(0, 4096, (16, 16)).astype(np.uint16)
    path = save(tmp_path / "a.jp2", values)  # which Pillow writes as 16 bits
    wanted = np.floor(values / 4095 * 255 + 0.5)
    np.testing.assert_array_equal(image_of(path, value_range=(0, 4095))[..., 0], wanted)


def test_every_caller_in_the_program_says_how_files_are_read() -> None:
    """The default is for scripts: a caller that forgot what the network was trained on would read files differently."""
    import ast

    package = Path(images.__file__).parents[1]
    readers = {"read_image", "image_header", "image_size", "read_mask", "open_mask"}
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in readers:
                assert len(node.args) + len(node.keywords) == 2, f"{file}:{node.lineno}: {node.func.id}"
