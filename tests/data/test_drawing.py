"""The labelled subset: which classes it shows, against a search through all subsets."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data import find_data
from protoseg_deploy.data.drawing import covering
from protoseg_deploy.recipe import Data


def union(sets: list[int]) -> int:
    return int(np.bitwise_or.reduce(sets)) if sets else 0


@pytest.mark.parametrize("seed", range(60))
def test_a_subset_shows_every_class_if_any_of_its_size_does(seed: int) -> None:
    numbers = random.Random(seed)
    classes, images = numbers.randint(1, 6), numbers.randint(2, 9)
    shown = [sum(1 << c for c in range(classes) if numbers.random() < 0.3) for _ in range(images)]
    order = numbers.sample(range(images), images)
    everything = union(shown)
    for count in range(1, images):
        chosen = covering(order, count, classes, lambda some: [shown[index] for index in some])
        assert len(chosen) == len(set(chosen)) == count
        possible = any(union([shown[i] for i in some]) == everything for some in itertools.combinations(order, count))
        covered = union([shown[index] for index in chosen])
        assert (covered == everything) == possible
        if union([shown[index] for index in order[:count]]) == everything:
            assert set(chosen) == set(order[:count]), "a random draw that shows every class is the one"


def test_a_larger_count_adds_to_a_subset_that_shows_every_class() -> None:
    numbers = random.Random(1)
    shown = [1 << numbers.choice([0, 0, 0, 0, 1, 1, 2]) for _ in range(50)]
    order = numbers.sample(range(50), 50)
    draws = [set(covering(order, count, 3, lambda some: [shown[i] for i in some])) for count in range(3, 50)]
    assert all(one < other for one, other in itertools.pairwise(draws))


def test_no_more_masks_are_read_than_it_takes() -> None:
    read: list[int] = []

    def shown(some: list[int]) -> list[int]:
        read.extend(some)
        return [0b11] * len(some)

    assert covering(range(10_000), 3, 2, shown) == [0, 1, 2]
    assert len(read) < 1000


def test_a_search_that_would_not_end_is_cut() -> None:
    """Two thousand sets of two of 120 classes, of which sixty are drawn."""
    numbers = random.Random(0)
    shown = [sum(1 << c for c in numbers.sample(range(120), 2)) for _ in range(2000)]
    chosen = covering(range(2000), 60, 120, lambda some: [shown[index] for index in some])
    assert len(set(chosen)) == 60
    assert union([shown[index] for index in chosen]).bit_count() > 105


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Thirty images of which the tenth alone shows class 2, and the last one cannot be read."""
    for number in range(30):
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        (tmp_path / f"images/{number:02}.png").touch()
        mask = np.zeros((4, 4), np.uint8)
        mask[0] = 1
        if number == 9:
            mask[1] = 7
        Image.fromarray(mask).save(tmp_path / f"masks/{number:02}.png")
    (tmp_path / "masks/29.png").write_text("no mask")
    return tmp_path


def drawn(root: Path, **keys: object) -> list[str]:
    data = {"root": str(root), "labeled": {"images": "images", "masks": "masks"}, "classes": ["a", "b", "c"]}
    sets = find_data(Data.model_validate(data | {"value_map": {7: 2}} | keys), need_unlabeled=False, need_val=False)
    return [sample.image.stem for sample in sets.labeled]


def test_a_rare_class_is_drawn(root: Path) -> None:
    for seed in range(10):
        covering = drawn(root, labeled_count=4, labeled_seed=seed)
        assert "09" in covering
        others = drawn(root, labeled_count=4, labeled_seed=seed, labeled_draw="random")
        assert len(set(covering) & set(others)) >= 3
    assert any("09" not in drawn(root, labeled_count=4, labeled_seed=s, labeled_draw="random") for s in range(10))
    assert "09" in drawn(root, labeled_share=0.1)
    assert len(drawn(root, labeled_count=4, value_map={})) == 4, "a class nowhere to be seen"
