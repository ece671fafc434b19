"""Unlabelled images that cannot be read make room for others, and crops drawn for classes, the same in every run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoseg_deploy.data import find_data, read_image
from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.workers import training_loader
from protoseg_deploy.distributed import World
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading, Recipe
from tests.conftest import COLORS, with_values

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
            assert read_image(Path(file), ImageReading()).any()
        for line in batch.unreadable:
            file, reason = line.split("\t")
            assert reason
            assert file not in reason
            with pytest.raises(DataError) as caught:
                read_image(Path(file), ImageReading())
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


@pytest.fixture
def one_rare_patch(tiny_recipe: Recipe, scenes: Path, tmp_path: Path) -> Recipe:
    """Six labelled images without red or blue, but for a red patch of 4x4 pixels in the fifth."""
    shutil.copytree(scenes, tmp_path / "data")
    for number in range(6):
        mask = np.zeros((120, 160), np.uint8)
        if number == 4:
            mask[100:104, 20:24] = 1
        image = np.where(mask[..., None] == 1, COLORS[1], COLORS[0]).astype(np.uint8)
        for folder, pixels in (("images", image), ("masks", mask)):
            Image.fromarray(pixels).save(tmp_path / "data/labeled" / folder / f"{number:03d}.png")
    return with_values(tiny_recipe, data={"root": str(tmp_path / "data")}, train={"scale": [1.0, 1.0]})


def test_class_aware_crops_show_the_rare_class(one_rare_patch: Recipe) -> None:
    """Of two classes the one with hardly a pixel is drawn nearly always, and there is one image that shows it."""
    found = {}
    for share in (0.0, 0.5, 1.0):
        batches = batches_of(with_values(one_rare_patch, train={"class_aware_share": share}))
        rounds = [batches.batch(step) for step in range(8)]
        found[share] = [bool((label == 1).any()) for batch in rounds for label in batch.labels]
        named = [Path(file).name == "004.png" for batch in rounds for file in batch.files[:2]]
        assert all(name for name, shown in zip(named, found[share], strict=True) if shown), "the image shown is named"
    assert sum(found[0.0]) <= 2
    assert 3 <= sum(found[0.5]) <= 13
    assert all(found[1.0])


def test_pasted_pixels_are_of_rare_classes_and_agree_with_the_mask(one_rare_patch: Recipe) -> None:
    for step in range(8):
        plain, pasted = (
            batches_of(with_values(one_rare_patch, train={"copy_paste_probability": share})).batch(step)
            for share in (0.0, 1.0)
        )
        changed = plain.labels != pasted.labels
        assert (pasted.labels[changed] == 1).all()
        assert (pasted.labels == 1).flatten(1).any(dim=1).all()
        assert pasted.images.movedim(1, -1)[pasted.labels == 1].unique(dim=0).tolist() == [list(COLORS[1])]
        same = ~(pasted.labels == 1)[:, None].expand_as(plain.images)
        assert torch.equal(plain.images[same], pasted.images[same])
        assert plain.files == pasted.files


@pytest.mark.parametrize("option", ["class_aware_share", "copy_paste_probability"])
def test_slots_that_draw_no_class_are_as_without_the_option(tiny_recipe: Recipe, option: str) -> None:
    """So is all else of a batch, and without the option no mask is looked at beforehand."""
    without = batches_of(tiny_recipe)
    assert without.class_sampling is None
    alike = 0
    for step in range(8):
        plain, drawn = without.batch(step), batches_of(with_values(tiny_recipe, train={option: 0.5})).batch(step)
        assert torch.equal(plain.strong, drawn.strong)
        alike += sum(torch.equal(*images) for images in zip(plain.images, drawn.images, strict=True))
    assert 3 <= alike <= 13


def test_batches_with_drawn_classes_depend_on_seed_and_slot_alone(tiny_recipe: Recipe) -> None:
    recipe = with_values(tiny_recipe, train={"class_aware_share": 0.5, "copy_paste_probability": 0.5})

    def seen(batch: object) -> tuple[object, ...]:
        assert isinstance(batch, Batch)
        return batch.files, batch.images.tolist(), batch.labels.tolist()

    alone = [seen(batch) for batch in map(batches_of(recipe).batch, range(8))]
    assert [seen(batch) for batch in training_loader(batches_of(recipe), 0, 2, pin_memory=False)] == alone
    assert [seen(batch) for batch in training_loader(batches_of(recipe), 5, 0, pin_memory=False)] == alone[5:]
    for step in range(8):
        parts = [batches_of(recipe, World(rank, 2)).batch(step) for rank in range(2)]
        assert torch.cat([part.images for part in parts]).tolist() == alone[step][1]
        assert torch.cat([part.labels for part in parts]).tolist() == alone[step][2]
