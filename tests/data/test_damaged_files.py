"""Any bytes under any name: reading gives an array or one DataError that names the file, and leaves the file alone."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from protoseg_deploy.data import image_size, read_image, read_mask
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading, MaskReading

KINDS = ("png", "palette", "grey16", "jpeg", "bmp", "gif", "ppm", "webp", "tiff", "lzw", "tiles", "bands", "float")
READINGS = (ImageReading(), ImageReading(bands=(1, 2, 3), value_range=(0, 1000), exif="ignore"))
NOISE = np.random.default_rng(0).integers(0, 256, (20, 24, 5), dtype=np.uint8)


@cache
def whole(kind: str) -> bytes:
    """A small file of a kind."""
    content = io.BytesIO()
    tiffs = {
        "tiles": (NOISE[..., :3], {"photometric": "rgb", "tile": (16, 16), "compression": "deflate"}),
        "bands": (NOISE, {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [0] * 4}),
        "float": (NOISE[..., 0].astype(np.float32), {"photometric": "minisblack", "compression": "deflate"}),
    }
    if kind in tiffs:
        values, options = tiffs[kind]
        tifffile.imwrite(content, values, **options)
        return content.getvalue()
    image = Image.fromarray(NOISE[..., :3])
    if kind == "palette":
        image = image.quantize(16)
    elif kind == "grey16":
        image = Image.fromarray(NOISE[..., 0].astype(np.uint16) * 200)
    options = {"compression": "tiff_lzw"} if kind == "lzw" else {}
    image.save(content, format={"palette": "png", "grey16": "png", "lzw": "tiff"}.get(kind, kind), **options)
    return content.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_one_error_that_names_the_file(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(whole(kind))
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.one_of(st.integers(0, min(300, len(content) - 1)), st.integers(0, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])
    path = tmp_path / f"damaged.{data.draw(st.sampled_from(['png', 'jpg', 'tif', 'bin']))}"
    path.write_bytes(content)
    check(path)
    assert path.read_bytes() == content


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.sampled_from([b"", b"II*\0", b"MM\0*", b"II+\0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"BM"]),
    rest=st.binary(max_size=300),
)
def test_bytes_that_only_begin_like_an_image(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "random.png"
    path.write_bytes(start + rest)
    check(path)
    assert path.read_bytes() == start + rest


def check(path: Path) -> None:
    for reading in READINGS:
        image = outcome(read_image, path, reading)
        assert isinstance(image, str) or (image.dtype == np.uint8 and image.shape[2] == 3)
        outcome(image_size, path, reading)
    mask = outcome(read_mask, path, MaskReading(colors=((0, 0, 0), (1, 2, 3))))
    assert isinstance(mask, str) or (mask.dtype == np.uint8 and mask.ndim == 2)


def outcome(read: Callable[..., Any], path: Path, reading: ImageReading | MaskReading) -> Any:
    """What was read, or the text of the error."""
    try:
        return read(path, reading)
    except DataError as error:
        message = error.message
    assert path.name in message
    return message
