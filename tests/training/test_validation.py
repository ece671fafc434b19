"""Validation in training: what is counted, by whom, and that it ends together."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import distributed as dist
from torch import multiprocessing

from protoseg_deploy.data import Sample
from protoseg_deploy.distributed import world
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Data, Model, Train
from protoseg_deploy.training.validation import validate
from tests.conftest import draw_scene

DATA = Data(classes=["ground", "red", "blue"])


SEEDS = {"student": 0, "teacher": 3}
"""Of untrained networks that predict every class."""


def network(name: str) -> Segmenter:
    torch.manual_seed(SEEDS[name])
    built = Segmenter(Model(backbone="resnet10t", weights="none", decoder="fpn", decoder_channels=8), 3)
    torch.nn.init.normal_(built.head.weight, std=3.0)
    return built


def networks() -> dict[str, Segmenter]:
    return {"student": network("student").train(), "teacher": network("teacher").eval()}


def write(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    samples = []
    for number, (height, width) in enumerate(sizes):
        image, mask = draw_scene(number, height, width)
        sample = Sample(folder / f"{number}.png", folder / f"{number}_mask.png")
        Image.fromarray(image).save(sample.image)
        Image.fromarray(mask).save(sample.mask)
        samples.append(sample)
    return samples


SIZES = [(40, 48), (40, 48), (33, 50), (40, 48), (33, 50)]


def counted(samples: list[Sample], segmenter: Segmenter) -> np.ndarray:
    """``[C,C]`` counts of whole images, one by one, in NumPy."""
    counts = np.zeros((3, 3), np.int64)
    segmenter.eval()
    for sample in samples:
        pixels = torch.from_numpy(np.array(Image.open(sample.image))).permute(2, 0, 1)
        truth = np.array(Image.open(sample.mask))
        with torch.inference_mode():
            predicted = segmenter(pixels[None])[0].argmax(0).numpy()
        np.add.at(counts, (truth[truth != 255], predicted[truth != 255]), 1)
    return counts


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_counts_every_network_on_every_image(tmp_path: Path, batch: int) -> None:
    samples = write(tmp_path, SIZES)
    matrices = validate(networks(), samples, DATA, Train(eval_batch=batch))
    assert list(matrices) == ["student", "teacher"]
    for name, matrix in matrices.items():
        expected = counted(samples, network(name))
        assert (expected.sum(axis=0) > 0).all()
        assert matrix.counts().sum() == expected.sum()
        assert abs(matrix.counts() - expected).sum() <= 4, "rounding may turn a pixel between two classes"


def test_networks_come_back_in_their_mode_even_from_a_failure(tmp_path: Path) -> None:
    samples, both = write(tmp_path, SIZES[:2]), networks()
    validate(both, samples, DATA, Train())
    assert (both["student"].training, both["teacher"].training) == (True, False)
    samples[1].mask.write_bytes(b"nothing")
    with pytest.raises(DataError, match="1 fault in 2 images"):
        validate(both, samples, DATA, Train())
    assert (both["student"].training, both["teacher"].training) == (True, False)


def test_neither_statistics_nor_random_numbers_are_touched(tmp_path: Path) -> None:
    samples, both = write(tmp_path, SIZES[:2]), networks()
    before = {name: value.clone() for name, value in both["student"].state_dict().items()}
    state = torch.get_rng_state()
    validate(both, samples, DATA, Train(eval_batch=2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in both["student"].state_dict().items())


def test_windows_are_the_recipe_s(tmp_path: Path) -> None:
    """Quadrants that do not overlap are images of their own."""
    samples, quadrants = write(tmp_path, [(64, 64)]), []
    for number, (top, left) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32)]):
        sample = Sample(tmp_path / f"q{number}.png", tmp_path / f"q{number}_mask.png")
        for path, source in ((sample.image, samples[0].image), (sample.mask, samples[0].mask)):
            Image.open(source).crop((left, top, left + 32, top + 32)).save(path)
        quadrants.append(sample)
    cut = validate(networks(), samples, DATA, Train(eval_window=32, eval_stride=32, eval_batch=3))
    apart = validate(networks(), quadrants, DATA, Train(eval_batch=4))
    whole = validate(networks(), samples, DATA, Train())
    for name in ("student", "teacher"):
        assert abs(cut[name].counts() - apart[name].counts()).sum() <= 4
    assert any(abs(cut[name].counts() - whole[name].counts()).sum() > 20 for name in cut)


def _in_one_of_two(rank: int, folder: Path) -> None:
    """What each of two processes does; it writes down its counts and how it failed."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    samples = [Sample(folder / f"{number}.png", folder / f"{number}_mask.png") for number in range(len(SIZES))]
    results: dict[str, object] = {}
    for name, chosen in (("all", samples), ("one", samples[:1])):
        matrices = validate(networks(), chosen, DATA, Train(eval_batch=2), world())
        results[name] = {of: matrix.counts().tolist() for of, matrix in matrices.items()}
    both = networks()
    torn = [*samples, Sample(folder / "5.png", folder / "torn.png")]
    try:
        validate(both, torn, DATA, Train(eval_batch=2), world())
    except ProtosegError as error:
        results["failure"] = (type(error).__name__, error.message)
    results["modes"] = [one.training for one in both.values()]
    torch.save(results, folder / f"results{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_count_what_one_counts_and_fail_together(tmp_path: Path) -> None:
    samples = write(tmp_path, [*SIZES, (40, 48)])[:5]
    (tmp_path / "torn.png").write_bytes(b"nothing")
    multiprocessing.start_processes(_in_one_of_two, (tmp_path,), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"results{rank}.pt") for rank in (0, 1))
    assert first["all"] == second["all"]
    assert first["one"] == second["one"], "the second process had no image at all"
    for name, chosen in (("all", samples), ("one", samples[:1])):
        alone = validate(networks(), chosen, DATA, Train(eval_batch=2))
        for of, matrix in alone.items():
            assert abs(matrix.counts() - np.array(first[name][of])).sum() <= 4
    assert second["failure"][0] == "DataError"
    assert "torn.png" in second["failure"][1]
    assert first["failure"] == ("ProtosegError", "validation has failed in another process")
    assert first["modes"] == second["modes"] == [True, False]
