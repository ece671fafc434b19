"""A repository of the Python backend, and a real server of it, shared by the tests of a module."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from protoseg_deploy.exporting import export_bundle
from tests.made_once import made_once, session_folder
from tests.serving.triton.environment import NoTritonError, triton_environment
from tests.serving.triton.server import TritonAddress, triton_server
from tests.serving.triton.writing import added

MOST_IMAGES, MOST_PIXELS = 8, 1_000_000


@pytest.fixture(scope="session")
def fixed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network in graphs for images of 40x56, never verified."""
    network = bundle.parent / "best.safetensors"

    def make(folder: Path) -> None:
        export_bundle(network, folder, precisions=("fp32", "fp16"), size=(40, 56), verify=False)

    return made_once(session_folder(tmp_path_factory) / "served-fixed", make)


@pytest.fixture(scope="module")
def repository(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models ``fp32`` and ``int8`` with their ensembles, and ``waiting``, whose batches wait for more."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    words = ["--out", folder, "--backend", "python", "--threads", 1, "--warmup-size", "96x128"]
    words += ["--max-batch", MOST_IMAGES, "--max-megapixels", MOST_PIXELS / 1e6]
    added(bundle, f"{bundle}@int8", "--name", "fp32", "--name", "int8", *words, "--ensemble")
    added(bundle, "--name", "waiting", *words, "--delay", 20)
    return folder


@pytest.fixture(scope="module")
def has_triton() -> None:
    """Skip where there is no tritonserver, and say why; `make test-triton` fails there."""
    try:
        triton_environment()
    except NoTritonError as error:
        if os.environ.get("PROTOSEG_NEEDS_TRITON"):
            raise
        pytest.skip(f"no tritonserver: {error}")


@pytest.fixture(scope="module")
def server(has_triton: None, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonAddress]:
    with triton_server(repository, tmp_path_factory.mktemp("server") / "log.txt") as address:
        yield address
