"""A run with a network that has learnt to tell colours apart: sure of itself, so that faults show as faults."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from protoseg_deploy.choices import PRECISIONS
from protoseg_deploy.evaluation.samples import run_samples
from protoseg_deploy.exporting import Calibration, export_bundle
from protoseg_deploy.models import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Model, dump_recipe, recipe_from_dict
from tests.exporting.tracing import traced_once_in
from tests.made_once import made_once, session_folder

NAMES = ("red", "green", "blue", "grey")
COLORS = ((200, 40, 40), (40, 180, 60), (40, 60, 200), (120, 120, 120))


def scene(seed: int, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Rectangles of the four colours with noise, and their mask."""
    random = np.random.default_rng(seed)
    mask = np.full((height, width), 3, dtype=np.uint8)
    for _ in range(8):
        top, left = random.integers(0, height - 16), random.integers(0, width - 16)
        mask[top : top + random.integers(12, 40), left : left + random.integers(12, 40)] = random.integers(0, 4)
    image = np.array(COLORS)[mask] + random.normal(0, 12, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def trained_segmenter(spec: NetworkSpec, steps: int = 25):
    torch.manual_seed(0)
    network = build_segmenter(spec).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    scenes = [scene(seed, 64, 64) for seed in range(12)]
    images = torch.from_numpy(np.stack([image for image, _ in scenes])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask in scenes])).long()
    for _ in range(steps):
        loss = F.cross_entropy(network(images), masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.fixture(scope="session")
def colour_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder: recipe, best network, validation images of odd and differing sizes."""
    root = session_folder(tmp_path_factory) / "colours"
    data = made_once(root / "data", _write_data)
    return made_once(root / "run", lambda run: _make_run(run, data))


def _write_data(data: Path) -> None:
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    for number, (height, width) in enumerate([(97, 131), (64, 96), (120, 75)]):
        image, mask = scene(100 + number, height, width)
        mask[:3] = 255
        Image.fromarray(image).save(data / "images" / f"{number}.png")
        Image.fromarray(mask).save(data / "masks" / f"{number}.png")


def _make_run(run: Path, data: Path) -> None:
    model = Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16, output_stride=16)
    spec = NetworkSpec(
        model, ClassTable(NAMES, COLORS), provenance={"run": "colours", "step": 25, "miou_percent": 90.0}
    )
    save_network(run / "best.safetensors", trained_segmenter(spec).state_dict(), spec)
    part = {"images": "images", "masks": "masks"}
    recipe = recipe_from_dict(
        {
            "data": {"root": str(data), "labeled": part, "val": part, "classes": list(NAMES)},
            "model": model.model_dump(),
            "method": {"name": "supervised"},
        },
        "test",
    )
    (run / "recipe.yaml").write_text(dump_recipe(recipe))


@pytest.fixture(scope="session")
def every_precision(colour_run: Path) -> Path:
    """An unspoilt bundle with a graph of every precision; tests that change it work on a copy."""

    def make(folder: Path) -> None:
        calibration = Calibration(sorted((colour_run.parent / "data" / "images").iterdir()))
        samples = run_samples(colour_run)
        with traced_once_in(colour_run.parent.parent / "traces"):
            export_bundle(colour_run, folder, precisions=PRECISIONS, calibration=calibration, samples=samples)

    return made_once(colour_run.parent / "bundles" / "every", make)


@pytest.fixture(scope="session")
def good_bundle(colour_run: Path) -> Path:
    """An unspoilt bundle of any size with all outputs; tests that change it work on a copy."""

    def make(folder: Path) -> None:
        export_bundle(colour_run, folder, confidence=True, logits=True, samples=run_samples(colour_run))

    return made_once(colour_run.parent / "bundles" / "good", make)
