"""Mask files: the classes that somebody drew are those that are counted, or the file is named."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.corpus.judging import Case, Place
from tests.corpus.kits import COLORS, HEIGHT, WIDTH, recipe_tree, scene, write_data, write_recipe
from tests.corpus.launching import Ended
from tests.corpus.pictures import chunk, encoded, header, page, pixels, png, tiff
from tests.corpus.spoiling import cuts, flipped

Content = bytes | Callable[[Path], object]
"""What a mask file holds, or a function that makes it."""

MASK = scene(0)[1]
"""The mask of the first labelled image."""
OTHERS = [scene(1)[1], scene(2)[1]]
_COLOR_KEY = f"data.colors={[list(color) for color in COLORS]}"


def _check(file: str, content: Content, options: Sequence[str]) -> Callable[[Place], list[object]]:
    """The first labelled mask replaced; the others are good."""

    def make(place: Place) -> list[object]:
        masks = write_data(place / "data") / "labeled" / "masks"
        (masks / "0.png").unlink()
        target = masks / file
        target.write_bytes(content) if isinstance(content, bytes) else content(target)
        recipe = write_recipe(place / "mine.yaml", recipe_tree(place / "data"))
        return ["check", recipe, "--json", *options]

    return make


def _counts(expected: NDArray[np.integer]) -> Callable[[Place, Ended], None]:
    def check(place: Place, ended: Ended) -> None:
        document = json.loads(ended.out.decode("utf-8"))
        values = np.concatenate([expected.ravel(), *(mask.ravel() for mask in OTHERS)])
        counts = np.bincount(values[values != 255], minlength=3)
        found = [entry["labeled_percent"] for entry in document["classes"]]
        np.testing.assert_allclose(found, 100 * counts / counts.sum(), atol=0.01)

    return check


def reads(name: str, content: bytes, expected: NDArray[np.integer] = MASK, *options: str, file: str = "0.png") -> Case:
    """The mask must be read, as `expected`."""
    return Case(name, _check(file, content, options), right=_counts(expected), must_pass=True)


def either(name: str, content: bytes, expected: NDArray[np.integer] = MASK, *options: str, file: str = "0.png") -> Case:
    """The mask is read as `expected`, or named."""
    return Case(name, _check(file, content, options), ("masks/0.",), right=_counts(expected))


def refuses(name: str, content: Content, *options: str, file: str = "0.png") -> Case:
    """The mask is named."""
    return Case(name, _check(file, content, options), ("masks/0.",))


def _palette(mask: NDArray[np.uint8], colors: Sequence[Sequence[int]] = COLORS) -> Image.Image:
    image = Image.fromarray(mask, "L").convert("P")
    image.putdata(mask.ravel().tolist())
    image.putpalette([value for color in colors for value in color])
    return image


def _packed(mask: NDArray[np.uint8], bits: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits."""
    values = np.unpackbits(mask[..., None], axis=-1)[..., 8 - bits :].reshape(len(mask), -1)
    return png(header(WIDTH, HEIGHT, bits, 0), pixels(np.packbits(values, axis=1)))


_IGNORED = np.where(np.arange(WIDTH) < 3, 255, MASK).astype(np.uint8)
_COLORED = np.array(COLORS, np.uint8)[MASK]
_ALIEN = _COLORED.copy()
_ALIEN[0, :5] = (1, 2, 3)
_EXIF_3 = b"Exif\0\0II*\0\10\0\0\0" + page({0x0112: (3, [3])}, 8)

READ = [
    reads("grey", encoded(MASK, "PNG")),
    reads("with-ignored-pixels", encoded(_IGNORED, "PNG"), _IGNORED),
    reads("palette", encoded(_palette(MASK), "PNG")),
    reads("grey-of-2-bits", _packed(MASK, 2)),
    reads("grey-of-4-bits", _packed(MASK, 4)),
    reads("one-bit", encoded(MASK > 0, "PNG"), (MASK > 0).astype(np.uint8)),
    reads("16-bit", encoded(MASK.astype(np.uint16), "PNG")),
    reads("interlaced-by-hand", png(header(), pixels(np.dstack([MASK] * 3)))),
    reads("grey-as-rgb", encoded(np.dstack([MASK] * 3), "PNG")),
    reads("tiff-called-png", encoded(MASK, "TIFF")),
    reads("32-bit-tiff-called-png", encoded(MASK.astype(np.int32), "TIFF")),
    reads("bmp-called-png", encoded(MASK, "BMP")),
    reads("colours", encoded(_COLORED, "PNG"), MASK, _COLOR_KEY),
    either("gif-called-png", encoded(_palette(MASK), "GIF")),
    either("webp-lossless-called-png", encoded(np.dstack([MASK] * 3), "WEBP", lossless=True)),
    either("grey-as-rgba", encoded(np.dstack([MASK, MASK, MASK, np.full_like(MASK, 255)]), "PNG")),
    either("palette-longer-than-the-classes", encoded(_palette(MASK, [*COLORS, (9, 9, 9)] * 20), "PNG")),
    either("palette-of-one-colour", encoded(_palette(MASK, COLORS[:1] * 3), "PNG")),
    either("transparent-background", encoded(_palette(MASK), "PNG", transparency=0)),
    either("tiff-unsigned-32-bit", tiff(MASK[..., None].astype(np.uint32), photometric=1)),
    either("text-in-the-header", png(header(WIDTH, HEIGHT, 8, 0), chunk(b"tEXt", b"\0" * 90), pixels(MASK))),
    either("two-colour-keys", encoded(_COLORED, "PNG"), MASK, _COLOR_KEY, "data.value_map={}"),
]

REFUSED = [
    refuses("missing", lambda path: None),
    refuses("empty", b""),
    refuses("text", b"no mask"),
    refuses("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\nshowpage\n"),
    refuses("named-pipe", os.mkfifo),
    refuses("folder", Path.mkdir),
    refuses("link-to-nowhere", lambda path: path.symlink_to("nowhere")),
    refuses("link-to-a-device", lambda path: path.symlink_to("/dev/zero")),
    refuses("jpeg", encoded(MASK, "JPEG")),
    refuses("webp-lossy", encoded(np.dstack([MASK] * 3), "WEBP", quality=50)),
    refuses("of-another-size", encoded(MASK[:-1], "PNG")),
    refuses("turned", encoded(np.ascontiguousarray(MASK.T), "PNG")),
    refuses("value-that-is-no-class", encoded(np.where(MASK == 2, 7, MASK).astype(np.uint8), "PNG")),
    refuses("value-behind-the-last-class", encoded(np.where(MASK == 2, 3, MASK).astype(np.uint8), "PNG")),
    refuses("16-bit-instances", encoded(MASK.astype(np.uint16) * 1000, "PNG")),
    refuses("32-bit-instances", encoded(MASK.astype(np.int32) * 100_000, "TIFF")),
    refuses("32-bit-negative", encoded(-MASK.astype(np.int32), "TIFF")),
    either("float", encoded(MASK.astype(np.float32), "TIFF")),
    refuses("float-half-classes", encoded(MASK.astype(np.float32) / 2, "TIFF")),
    refuses("colours-without-data-colors", encoded(_COLORED, "PNG")),
    refuses("colours-not-in-data-colors", encoded(_ALIEN, "PNG"), _COLOR_KEY),
    refuses("cmyk", encoded(Image.fromarray(_COLORED).convert("CMYK"), "TIFF")),
    refuses("animation", encoded(_palette(MASK), "GIF", save_all=True, append_images=[_palette(OTHERS[0])])),
    refuses("pages", encoded(MASK, "TIFF", save_all=True, append_images=[Image.fromarray(OTHERS[0])])),
    refuses("no-palette", png(header(WIDTH, HEIGHT, 8, 3), pixels(MASK))),
    refuses("bomb", png(header(60000, 60000, 1, 0), pixels(MASK))),
]
_WHOLE = {"png": encoded(MASK, "PNG"), "tif": encoded(MASK, "TIFF")}
CUT = [
    either(f"{kind}-cut-to-{size}", content[:size])
    for kind, content in _WHOLE.items()
    for size in cuts(len(content), 4)
]


def _twice_a_mask(name: str, keys: Sequence[str], **changes: object) -> Case:
    """Keys of the recipe that contradict the masks, which are good."""

    def make(place: Place) -> list[object]:
        write_data(place / "data")
        tree = recipe_tree(place / "data")
        tree["data"].update(changes)
        return ["check", write_recipe(place / "mine.yaml", tree), "--json"]

    return Case(name, make, tuple(keys))


def _template(text: str) -> dict[str, str]:
    return {"images": "labeled/images", "masks": "labeled/masks", "mask_template": text}


_IMAGES_AS_MASKS = {"images": "labeled/images", "masks": "labeled/images"}

KEYS = [
    _twice_a_mask("one-class-of-three", ("masks",), classes=["a"]),
    _twice_a_mask("all-is-ignored", ("data.", "masks"), value_map={0: 255, 1: 255, 2: 255}),
    _twice_a_mask("the-background-is-ignored", ("data.", "masks"), ignore_index=0),
    _twice_a_mask("values-to-no-class", ("data.", "masks"), value_map={0: 9}),
    _twice_a_mask(
        "masks-are-the-images",
        ("data.", "images/0.png"),
        labeled=_IMAGES_AS_MASKS,
    ),
    _twice_a_mask(
        "template-to-nothing",
        ("mask_template", "0_x.png"),
        labeled=_template("{stem}_x.png"),
    ),
    _twice_a_mask(
        "template-with-another-word",
        ("mask_template",),
        labeled=_template("{stem}{name}.png"),
    ),
    _twice_a_mask(
        "template-with-an-attribute",
        ("mask_template",),
        labeled=_template("{stem.__class__}{stem}.png"),
    ),
    _twice_a_mask(
        "template-without-end",
        ("mask_template",),
        labeled=_template("{stem}{.png"),
    ),
    _twice_a_mask(
        "template-of-a-width-of-billions",
        ("mask_template",),
        labeled=_template("{stem:>9999999999}.png"),
    ),
]


def _damaged(name: str, seed: int) -> Case:
    content = flipped(_WHOLE["tif"], seed, 4)

    def check(place: Place, ended: Ended) -> None:
        json.loads(ended.out.decode("utf-8"))

    return Case(name, _check("0.png", content, ()), ("masks/0.",), right=check)


FLIPPED = [_damaged(f"bits-flipped-{seed}", seed) for seed in range(4)]


@pytest.mark.parametrize("case", [*READ, *REFUSED, *CUT, *KEYS, *FLIPPED], ids=lambda case: case.name)
def test_mask(case: Case, try_case: Callable[[Case], Ended]) -> None:
    assert try_case(case).code in case.codes
