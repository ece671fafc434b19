"""A verified bundle, and images of many sizes, for tests of servers."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data.scenes import scene_of_split
from protoseg_deploy.evaluation.samples import folder_samples
from protoseg_deploy.exporting import Calibration, export_bundle
from protoseg_deploy.models import NetworkSpec, save_network
from protoseg_deploy.recipe import ClassTable, Model
from tests.exporting.conftest import COLORS, NAMES, scene, trained_segmenter
from tests.made_once import made_once, session_folder


def make_network(root: Path) -> Path:
    """A network file that tells four colours apart, beside ``images`` and ``masks``."""
    for number, (height, width) in enumerate([(97, 131), (64, 96), (120, 75), (96, 128)]):
        for name, array in zip(("images", "masks"), scene(100 + number, height, width), strict=True):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / name / f"{number}.png")
    model = Model(backbone="test_resnet", weights="none", decoder="lraspp", decoder_channels=16, output_stride=32)
    spec = NetworkSpec(model, ClassTable(NAMES, COLORS))
    save_network(root / "best.safetensors", trained_segmenter(spec).state_dict(), spec)
    return root / "best.safetensors"


def shared_bundle(factory: pytest.TempPathFactory) -> Path:
    """The bundle of `make_bundle`, made once for all processes of a session; whoever spoils it takes a copy."""
    return made_once(session_folder(factory) / "served", make_bundle) / "colours"


def make_bundle(root: Path) -> None:
    """``colours`` below a folder: a bundle with verified fp32 and int8 graphs of any size and all outputs."""
    network = make_network(root)
    samples = folder_samples(root / "images", root / "masks", "{stem}.png", None)
    calibration = Calibration(sorted((root / "images").iterdir()))
    export_bundle(
        network,
        root / "colours",
        precisions=("fp32", "int8"),
        confidence=True,
        logits=True,
        calibration=calibration,
        samples=samples,
    )


def many_images(count: int = 64) -> list[NDArray[np.uint8]]:
    """``[H,W,3]`` uint8, no two alike, of many sizes: drawings, every other one on a scene of the embedded data set."""
    sizes = [(96, 128), (96, 128), (95, 77), (64, 64), (33, 120), (96, 128), (49, 50), (80, 112)]
    images = []
    for number in range(count):
        height, width = sizes[number % len(sizes)]
        whole, mask = scene(number, 96, 128)
        if number % 2:
            whole = np.where((mask == len(NAMES) - 1)[..., None], scene_of_split("val", number).image, whole)
        images.append(np.ascontiguousarray(whole[:height, :width]))
    return images
