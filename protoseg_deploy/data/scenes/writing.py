"""The demo data set on disk, in the folder format of every other data set."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy.data.scenes.appearance import KINDS
from protoseg_deploy.data.scenes.composing import Scene, draw_scene

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
        labeled: labelled images; they show modes 0 and 1 of each class only, and every class occurs in at least half.
        unlabeled: images without masks, over all modes.
        val: labelled images over all modes.
    """
    for split, count in {"labeled": labeled, "unlabeled": unlabeled, "val": val}.items():
        images, masks = folder / split / "images", folder / split / "masks"
        images.mkdir(parents=True, exist_ok=True)
        if split != "unlabeled":
            masks.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            scene = _scene(seed, split, number, size)
            Image.fromarray(scene.image).save(images / f"{number:04}.png")
            if split != "unlabeled":
                Image.fromarray(scene.mask).save(masks / f"{number:04}.png")
    classes = {"names": [kind.name for kind in KINDS], "colors": [kind.color for kind in KINDS]}
    (folder / "classes.json").write_text(json.dumps(classes, indent=1) + "\n", encoding="utf-8")


def _scene(seed: int, split: str, number: int, size: tuple[int, int]) -> Scene:
    """Scene `number` of a split; every other labelled scene is drawn until it shows each class."""
    complete = split == "labeled" and number % 2 == 0
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, _SPLITS[split], number, attempt])
        scene = draw_scene(rng, size, seen_only=split == "labeled", complete=complete)
        if not complete or _shows_every_class(scene):
            break
    return scene


def _shows_every_class(scene: Scene) -> bool:
    counts = np.bincount(scene.mask.reshape(-1), minlength=len(KINDS))[: len(KINDS)]
    return bool((counts >= _SHOWN_SHARE * scene.mask.size).all())
