"""A run and bundles of it that the tests of runtimes share; whoever spoils one takes a copy."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from protoseg_deploy.exporting import export_bundle
from protoseg_deploy.models import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Model
from tests.exporting.tracing import traced_once_in
from tests.made_once import made_once, session_folder

CPU = "CPUExecutionProvider"
CLASSES = ClassTable(("sky", "road", "tree"), ((10, 20, 30), (0, 255, 0), (1, 2, 3)))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `runtime_bundles`."""
    return runtime_bundles(tmp_path_factory)


def runtime_bundles(factory: pytest.TempPathFactory) -> Path:
    """``run`` (best and last differ), ``bundle`` (any size, three precisions) and ``fixed`` (40x56), unverified."""
    shared = session_folder(factory)
    with traced_once_in(shared / "traces"):
        return made_once(shared / "runtimes", _make_bundles)


def _make_bundles(root: Path) -> None:
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16), CLASSES, ignore_index=254
    )
    for seed, which in enumerate(("best", "last")):
        torch.manual_seed(seed)
        network = build_segmenter(spec)
        torch.nn.init.normal_(network.head.weight, std=3.0)  # so that more than one class is predicted
        save_network(root / "run" / f"{which}.safetensors", network.state_dict(), spec)
    export_bundle(root / "run", root / "bundle", precisions=("fp32", "fp16", "bf16"))
    export_bundle(root / "run", root / "fixed", size=(40, 56))


@pytest.fixture
def fallen_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is found, and ONNX Runtime computes on the CPU whatever it is asked for, silently."""
    plain = ort.InferenceSession
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(ort, "InferenceSession", lambda source, options, **_: plain(source, options, [CPU]))


@pytest.fixture
def named_otherwise(fallen_back: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before, and ONNX Runtime says that the provider it was asked for is there."""
    fallen = ort.InferenceSession

    class Session:
        def __init__(self, source: object, options: object, *, providers: list, **_: object) -> None:
            self._plain = fallen(source, options)
            first = providers[0]
            self._names = list(dict.fromkeys([first if isinstance(first, str) else first[0], CPU]))

        def get_providers(self) -> list[str]:
            return self._names

        def __getattr__(self, name: str) -> object:
            return getattr(self._plain, name)

    monkeypatch.setattr(ort, "InferenceSession", Session)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
