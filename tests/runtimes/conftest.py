"""A run and bundles of it that the tests of runtimes share; whoever spoils one takes a copy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from protoseg_deploy.exporting import export_bundle
from protoseg_deploy.models import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Model

CLASSES = ClassTable(("sky", "road", "tree"), ((10, 20, 30), (0, 255, 0), (1, 2, 3)))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``run`` (best and last differ), ``bundle`` (any size, three precisions) and ``fixed`` (40x56)."""
    root = tmp_path_factory.mktemp("runtimes")
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16), CLASSES, ignore_index=254
    )
    for seed, which in enumerate(("best", "last")):
        torch.manual_seed(seed)
        save_network(root / "run" / f"{which}.safetensors", build_segmenter(spec).state_dict(), spec)
    export_bundle(root / "run", root / "bundle", precisions=("fp32", "fp16", "bf16"))
    export_bundle(root / "run", root / "fixed", size=(40, 56))
    return root


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
