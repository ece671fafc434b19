"""Small data and small networks that tests share; nothing is fetched, nothing needs a GPU."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of programs that tests start: there is a test on every core already

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoseg_deploy.recipe import Recipe, recipe_from_dict
from tests.exporting import families
from tests.exporting.tracing import traced_once_in
from tests.made_once import session_folder

torch.set_num_threads(1)

# A shell starts jobs in the background with Ctrl-C ignored, and so would every command that a test starts and stops.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _shared_graphs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Graphs of backbone families are exported once for all processes of a session."""
    families.folder = session_folder(tmp_path_factory) / "families"


@pytest.fixture(scope="module")
def traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For tests of what surrounds the tracing, see `traced_once_in`."""
    with traced_once_in(session_folder(tmp_path_factory) / "traces"):
        yield


COLORS = {0: (40, 40, 40), 1: (200, 60, 40), 2: (40, 90, 210)}


def draw_scene(seed: int, height: int = 40, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture of a red and a blue rectangle on grey, and its mask; a strip of the mask is ignored."""
    generator = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for index in (1, 2):
        top, left = generator.integers(0, height - 16), generator.integers(0, width - 16)
        mask[top : top + 14, left : left + 14] = index
    image = np.array([COLORS[index] for index in range(3)])[mask] + generator.normal(0, 12, (height, width, 3))
    mask[:, -2:] = 255
    return image.clip(0, 255).astype(np.uint8), mask


def write_scenes(folder: Path, first_seed: int, count: int, *, masks: bool = True) -> None:
    for number in range(count):
        image, mask = draw_scene(first_seed + number)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{number:03d}.png")
        if masks:
            (folder / "masks").mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / f"{number:03d}.png")


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: 6 labelled, 9 unlabelled, 4 validation images of 40x48 with 3 classes."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root / "labeled", 100, 6)
    write_scenes(root / "unlabeled", 200, 9, masks=False)
    write_scenes(root / "val", 300, 4)
    return root


def recipe_tree(root: Path) -> dict[str, dict]:
    """A recipe over `scenes` that trains in seconds."""
    return {
        "data": {
            "root": str(root),
            "labeled": {"images": "labeled/images", "masks": "labeled/masks"},
            "unlabeled": {"images": "unlabeled/images"},
            "val": {"images": "val/images", "masks": "val/masks"},
            "classes": ["ground", "red", "blue"],
        },
        "model": {"backbone": "resnet10t", "weights": "none", "decoder": "lraspp", "decoder_channels": 16},
        "method": {
            "name": "prototype",
            "confidence_threshold": 0.0,  # networks this fresh are never sure: without it nothing would be learned from
            "prototypes": {"confidence_threshold": 0.0, "weight": 1.0, "start": 0.25, "grid": 8, "per_class": 2},
        },
        "train": {
            "steps": 8,
            "crop": 32,
            "batch_labeled": 2,
            "batch_unlabeled": 2,
            "optimizer": "adamw",
            "lr": 0.002,
            "head_lr_factor": 2,
            "device": "cpu",
            "workers": 0,
            "eval_every": 4,
            "checkpoint_every": 2,
            "log_every": 2,
        },
    }


@pytest.fixture
def tiny_recipe(scenes: Path) -> Recipe:
    return recipe_from_dict(recipe_tree(scenes), "test recipe")


def with_values(recipe: Recipe, **sections: dict) -> Recipe:
    """A recipe with some keys of some sections replaced: ``with_values(recipe, train={"steps": 3})``.

    Those of the prototype branch are merged into what it has: ``method={"prototypes": {"start": 0.0}}``.
    """
    tree = recipe.model_dump(mode="json")
    for section, values in sections.items():
        branch = tree[section].get("prototypes", {}) | values.get("prototypes", {})
        tree[section].update(values | ({"prototypes": branch} if branch else {}))
    return recipe_from_dict(tree, "test recipe")
