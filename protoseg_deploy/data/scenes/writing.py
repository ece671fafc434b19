"""The demo data set on disk, in the folder format of every other data set."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy.data.scenes.appearance import KINDS
from protoseg_deploy.data.scenes.composing import Scene, draw_scene
from protoseg_deploy.errors import UsageError
from protoseg_deploy.files import open_regular, read_at_most

CLASSES_FILE = "classes.json"
_SPLITS = {"labeled": 0, "unlabeled": 1, "val": 2}
_SHOWN_SHARE = 0.01
_ATTEMPTS = 200


def write_scenes(
    folder: Path,
    *,
    seed: int = 0,
    size: tuple[int, int] = (96, 128),
    labeled: int = 14,
    unlabeled: int = 360,
    val: int = 64,
) -> None:
    """Write ``{labeled,val}/{images,masks}``, ``unlabeled/images`` and ``classes.json``.

    Images are 8-bit RGB PNGs, masks single-channel index PNGs with 255 = ignore. The pixels depend on the arguments
    alone, not on the machine; a scene does not change when more of its split are drawn.

    Args:
        folder: created if missing; files of the same name are overwritten.
        seed: another seed is another data set.
        size: height and width in pixels.
        labeled: labelled images; no class appears in them beyond `SEEN`, and every class occurs in at least half.
        unlabeled: images without masks, over all modes.
        val: labelled images over all modes.

    Raises:
        UsageError: `size` is too small for scenes that show every class.
    """
    for split, count in {"labeled": labeled, "unlabeled": unlabeled, "val": val}.items():
        images, masks = folder / split / "images", folder / split / "masks"
        images.mkdir(parents=True, exist_ok=True)
        if split != "unlabeled":
            masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            scene = scene_of_split(split, number, seed=seed, size=size)
            Image.fromarray(scene.image).save(images / f"{number:04}.png")
            if split != "unlabeled":
                Image.fromarray(scene.mask).save(masks / f"{number:04}.png")
    (folder / CLASSES_FILE).write_text(_classes_text(), encoding="utf-8")


def is_scene_folder(folder: Path) -> bool:
    """Whether `write_scenes` has written a folder."""
    try:
        with open_regular(folder / CLASSES_FILE) as file:
            return read_at_most(file, 2**16) == _classes_text().encode()
    except OSError:
        return False


def _classes_text() -> str:
    classes = {"names": [kind.name for kind in KINDS], "colors": [kind.color for kind in KINDS]}
    return json.dumps(classes, indent=1) + "\n"


def scene_of_split(split: str, number: int, *, seed: int = 0, size: tuple[int, int] = (96, 128)) -> Scene:
    """The scene behind file `number` of ``labeled``, ``unlabeled`` or ``val``, with its mask and appearances.

    Every other labelled scene is redrawn until each class covers at least 1 % of it.

    Raises:
        UsageError: the picture is so small that no attempt shows every class.
    """
    complete = split == "labeled" and number % 2 == 0
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, _SPLITS[split], number, attempt])
        scene = draw_scene(rng, size, seen_only=split == "labeled", complete=complete)
        if not complete or _shows_every_class(scene):
            return scene
    raise UsageError(
        f"no scene of {size[0]}x{size[1]} pixels shows every class",
        "Draw larger ones, 96x128 pixels and more.",
    )


def _shows_every_class(scene: Scene) -> bool:
    counts = np.bincount(scene.mask.reshape(-1), minlength=len(KINDS))[: len(KINDS)]
    return bool((counts >= _SHOWN_SHARE * scene.mask.size).all())
