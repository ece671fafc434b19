"""A tiny graph, images whose class maps are known without it, and a prediction of them in this process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.evaluation.shards.predicting import ShardedPrediction, Workforce, predict_sharded
from protoseg_deploy.evaluation.shards.spec import RuntimeChoice
from tests.runtimes.small_graphs import make_graph, metadata, write

Predict = Callable[..., ShardedPrediction]
HERE = Workforce(workers=0)


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """The class is the red channel modulo 3."""
    return write(tmp_path / "tiny.onnx", make_graph())


@pytest.fixture
def other_graph(tmp_path: Path) -> Path:
    """The same classes by another artefact."""
    return write(tmp_path / "other.onnx", make_graph(said=metadata(program="another")))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images in two folders."""
    folder = tmp_path / "in"
    write_images(folder, 12)
    return folder


def write_images(folder: Path, count: int, side: int = 8) -> None:
    """PNGs whose red channel is noise: ``0/0000.png`` and so on, ten in a folder."""
    for number in range(count):
        path = folder / f"{number // 10}/{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + number % 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def expected(image: Path) -> np.ndarray:
    """The class map of an image, without the graph."""
    return np.asarray(Image.open(image).convert("RGB"))[..., 0] % 3


def everything(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def predict(graph: Path) -> Predict:
    """Predicts ``inputs`` to ``out`` in this process, by the tiny graph or another one."""

    def call(inputs: object, out: object, runtime: Path | None = None, **options: object) -> ShardedPrediction:
        choice = RuntimeChoice(str(runtime or graph), device="cpu")
        given = [str(one) for one in (inputs if isinstance(inputs, list) else [inputs])]
        return predict_sharded(choice, choice.open(threads=1).info, given, str(out), **{"workforce": HERE, **options})

    return call
