"""Unlabelled images that cannot be read make room for others, the same in every run."""

import shutil
from pathlib import Path

import pytest
import torch

from protoseg_deploy.data import find_data, read_image
from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.loading import TrainingBatches, training_loader
from protoseg_deploy.distributed import World
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Recipe
from tests.conftest import with_values

ALONE = World(0, 1)


@pytest.fixture
def damaged(tiny_recipe: Recipe, scenes: Path, tmp_path: Path) -> Recipe:
    """Four of nine unlabelled images are damaged, in four ways."""
    shutil.copytree(scenes, tmp_path / "data")
    folder = tmp_path / "data/unlabeled/images"
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:300])
    (folder / "003.png").write_bytes(b"")
    (folder / "004.png").write_text("tab\there")
    (folder / "006.png").unlink()
    (folder / "006.png").symlink_to(folder / "gone.png")
    return with_values(tiny_recipe, data={"root": str(tmp_path / "data")})


def batches_of(recipe: Recipe, world: World = ALONE) -> TrainingBatches:
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    return TrainingBatches(recipe, sets.labeled, sets.unlabeled, world=world)


def test_what_cannot_be_read_is_replaced_and_named(damaged: Recipe) -> None:
    batches = batches_of(damaged)
    named: set[str] = set()
    for batch in map(batches.batch, range(8)):
        assert len(batch.weak) == len(batch.files) - len(batch.labels) == 2
        for file in batch.files:
            assert read_image(Path(file)).any()
        for line in batch.unreadable:
            file, reason = line.split("\t")
            assert reason
            assert file not in reason
            with pytest.raises(DataError) as caught:
                read_image(Path(file))
            assert reason in caught.value.message
            named.add(Path(file).name)
    assert named == {"001.png", "003.png", "004.png", "006.png"}, "eight steps of two show all nine"


def test_replacements_depend_on_seed_and_slot_alone(damaged: Recipe) -> None:
    def seen(batch: object) -> tuple[object, ...]:
        assert isinstance(batch, Batch)
        return batch.files, batch.unreadable, batch.strong.double().sum().item()

    alone = [seen(batch) for batch in map(batches_of(damaged).batch, range(8))]
    assert [seen(batch) for batch in training_loader(batches_of(damaged), 0, 2, pin_memory=False)] == alone
    assert [seen(batch) for batch in training_loader(batches_of(damaged), 5, 0, pin_memory=False)] == alone[5:]
    reseeded = batches_of(with_values(damaged, train={"seed": 1}))
    assert [seen(batch) for batch in map(reseeded.batch, range(8))] != alone
    for step in range(8):
        whole = batches_of(damaged).batch(step)
        parts = [batches_of(damaged, World(rank, 2)).batch(step) for rank in range(2)]
        assert torch.equal(whole.weak, torch.cat([part.weak for part in parts]))
        assert whole.unreadable == tuple(line for part in parts for line in part.unreadable)


def test_a_readable_image_is_what_it_was(damaged: Recipe, tiny_recipe: Recipe) -> None:
    """Damage elsewhere changes nothing for a slot whose image can be read."""
    for step in range(8):
        before, after = (batches_of(recipe).batch(step) for recipe in (tiny_recipe, damaged))
        for slot in range(2):
            if Path(before.files[2 + slot]).name == Path(after.files[2 + slot]).name:
                assert torch.equal(before.weak[slot], after.weak[slot])


def test_a_pool_of_nothing_readable_is_an_error_that_names_files(damaged: Recipe) -> None:
    folder = Path(damaged.data.root) / "unlabeled/images"
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="20 unlabelled images in a row") as caught:
        batches_of(damaged).batch(0)
    assert len(caught.value.faults) > 3
    assert all(fault.startswith(str(folder)) and "empty" in fault for fault in caught.value.faults)


def test_a_labelled_image_that_cannot_be_read_is_an_error(damaged: Recipe) -> None:
    for path in (Path(damaged.data.root) / "labeled/images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"labeled/images/.*empty"):
        batches_of(damaged).batch(0)
