"""Evaluation of a runtime whose class maps are known."""

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import jaccard_score

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import read_image
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation import reading
from protoseg_deploy.evaluation.evaluate import check_same_classes, evaluate
from protoseg_deploy.evaluation.samples import folder_samples, recipe_samples
from protoseg_deploy.recipe import ClassTable, Data, ImageReading, LabeledFolder, MaskReading
from tests.fake_runtime import FakeRuntime


def write(folder: Path, name: str, predicted: np.ndarray, truth: np.ndarray) -> Sample:
    """An image whose red channel is what the fake runtime predicts, and its mask."""
    image, mask = folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png"
    for path in (image, mask):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([predicted, predicted // 2, 255 - predicted], axis=-1)).save(image)
    Image.fromarray(truth).save(mask)
    return Sample(image, mask)


def random_samples(folder: Path, sizes: list[tuple[int, int]]) -> tuple[list[Sample], np.ndarray, np.ndarray]:
    """Samples, and all their counted pixels: predicted and true."""
    numbers = np.random.default_rng(0)
    samples, predictions, truths = [], [], []
    for number, size in enumerate(sizes):
        truth = numbers.integers(0, 4, size, dtype=np.uint8)
        predicted = np.where(numbers.random(size) < 0.7, truth, numbers.integers(0, 4, size)).astype(np.uint8)
        truth[numbers.random(size) < 0.1] = 255
        samples.append(write(folder, f"{number:02}", predicted, truth))
        predictions.append(predicted[truth != 255])
        truths.append(truth[truth != 255])
    return samples, np.concatenate(predictions), np.concatenate(truths)


SIZES = [(8, 9), (8, 9), (8, 9), (12, 5), (8, 9), (8, 9)]


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_agrees_with_scikit_learn_whatever_the_batch(tmp_path: Path, batch: int) -> None:
    samples, predicted, truth = random_samples(tmp_path, SIZES)
    runtime = FakeRuntime()
    seen: list[tuple[int, int]] = []
    result = evaluate(runtime, samples, batch=batch, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(result.iou_percent, 100 * jaccard_score(truth, predicted, average=None))
    assert result.miou_percent == pytest.approx(100 * jaccard_score(truth, predicted, average="macro"))
    assert result.accuracy_percent == pytest.approx(100 * (truth == predicted).mean())
    assert result.truth_pixels == tuple(np.bincount(truth, minlength=4))
    assert result.images == len(samples)
    assert seen[-1] == (6, 6)
    assert all(first < second for first, second in pairwise(seen))
    assert max(shape[0] for shape in runtime.shapes) == min(batch, 5)  # only images of equal size share a batch


def test_a_fixed_size_is_evaluated_in_tiles_at_full_resolution(tmp_path: Path) -> None:
    samples, _, _ = random_samples(tmp_path, [(20, 30), (8, 8), (5, 11)])
    fixed, free = FakeRuntime(fixed_size=(8, 8)), FakeRuntime()
    tiled, whole = evaluate(fixed, samples), evaluate(free, samples)
    assert tiled.iou_percent == whole.iou_percent
    assert (tiled.tiled_images, whole.tiled_images) == (2, 0)


def engine(batches: tuple[int, int], sizes: tuple[tuple[int, int], tuple[int, int]]) -> FakeRuntime:
    """A runtime on a GPU that is bound as engines are."""
    runtime = FakeRuntime()
    runtime.info = dataclasses.replace(runtime.info, device="cuda", batch_range=batches, size_range=sizes)
    return runtime


@pytest.mark.parametrize("largest", [1, 3, 16])
def test_an_engine_is_given_what_its_profile_allows(tmp_path: Path, largest: int) -> None:
    samples, _, _ = random_samples(tmp_path, [(8, 9)] * 6 + [(40, 9), (30, 40), (4, 40)])
    runtime = engine((1, largest), ((4, 4), (16, 12)))
    result = evaluate(runtime, samples)
    assert result.iou_percent == evaluate(FakeRuntime(), samples).iou_percent
    assert result.tiled_images == 3
    assert max(shape[0] for shape in runtime.shapes) == min(4, largest)
    assert all(4 <= height <= 16 and 4 <= width <= 12 for _, height, width, _ in runtime.shapes)


def test_batches_an_engine_does_not_take(tmp_path: Path) -> None:
    samples, _, _ = random_samples(tmp_path, [(8, 8)])
    sizes = ((4, 4), (16, 16))
    with pytest.raises(UsageError, match="--batch 3: fake takes batches of up to 2") as asked:
        evaluate(engine((1, 2), sizes), samples, batch=3)
    assert "--batch 2" in asked.value.hint
    with pytest.raises(UsageError, match="takes batches of 2 to 4 images") as several:
        evaluate(engine((2, 4), sizes), samples)
    assert "--profile" in several.value.hint


def test_the_value_map_applies_before_anything_else(tmp_path: Path) -> None:
    predicted = np.array([[0, 1, 2, 2]], dtype=np.uint8)
    sample = write(tmp_path, "a", predicted, np.array([[0, 1, 9, 11]], dtype=np.uint8))
    result = evaluate(FakeRuntime(), [sample], masks=MaskReading(value_map={9: 2, 11: 255}))
    assert result.accuracy_percent == 100.0
    assert sum(result.truth_pixels) == 3


def test_absent_classes_become_null_in_json(tmp_path: Path) -> None:
    sample = write(tmp_path, "a", np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8))
    result = evaluate(FakeRuntime(), [sample])
    assert math.isnan(result.iou_percent[3])
    document = result.to_dict()
    assert document["iou_percent"] == {"class0": 100.0, "class1": None, "class2": None, "class3": None}
    assert document["miou_percent"] == 100.0


def test_every_fault_is_listed_with_its_file_before_any_result(tmp_path: Path) -> None:
    fine = np.zeros((4, 6), np.uint8)
    samples = [
        write(tmp_path, "fine", fine, fine),
        write(tmp_path, "strange", fine, np.array([[0, 7, 4, 255, 0, 1]] * 4, dtype=np.uint8)),
        write(tmp_path, "small", fine, np.zeros((4, 5), np.uint8)),
        write(tmp_path, "torn", fine, fine),
    ]
    samples[3].image.write_bytes(samples[3].image.read_bytes()[:40])
    with pytest.raises(DataError) as raised:
        evaluate(FakeRuntime(), samples)
    message = raised.value.message
    assert "3 faults in 4 images" in message
    assert f"{samples[1].mask}: ids out of range: 4, 7 in 8 pixels (classes are 0 to 3, ignored is 255)" in message
    assert f"{samples[2].mask}: 4×5 pixels (height×width), but its image {samples[2].image} has 4×6" in message
    assert str(samples[3].image) in message


def test_an_image_that_cannot_be_computed_is_named(tmp_path: Path) -> None:
    samples, _, _ = random_samples(tmp_path, [(8, 9), (8, 9), (20, 9), (20, 9), (8, 9)])

    def small_only(error: Exception):
        def predict(images: np.ndarray) -> np.ndarray:
            if images.shape[1] > 10:
                raise error
            return images[..., 0]

        return FakeRuntime(predict)

    with pytest.raises(ProtosegError, match=r"02\.png and 1 more: fake cannot compute 9x20 pixels: too many") as raised:
        evaluate(small_only(MemoryError()), samples, batch=2)
    assert "--batch" in raised.value.hint
    with pytest.raises(ProtosegError, match=r"02\.png: fake cannot compute 9x20 pixels: takes 4x4"):
        evaluate(small_only(UsageError("takes 4x4")), samples)
    with pytest.raises(ProtosegError, match=r"00\.png: fake .*: the class map holds 9"):
        evaluate(FakeRuntime(lambda images: images[..., 0] * 0 + 9), samples)


def test_images_too_large_to_be_read_are_named_with_the_other_faults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, _, _ = random_samples(tmp_path, [(8, 9)] * 4)
    samples[3].mask.write_bytes(b"nothing")

    def read(path: Path, reading: ImageReading) -> np.ndarray:
        if path == samples[1].image:
            raise MemoryError
        return read_image(path, reading)

    monkeypatch.setattr(reading, "read_image", read)
    with pytest.raises(DataError, match="2 faults in 4 images") as raised:
        evaluate(FakeRuntime(), samples)
    assert f"{samples[1].image}: it and its mask are too large for the memory" in raised.value.message
    assert str(samples[3].mask) in raised.value.message


def test_nothing_to_evaluate_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to evaluate"):
        evaluate(FakeRuntime(), [])


def test_other_classes_are_refused_by_name() -> None:
    info = FakeRuntime(classes=3).info
    color = ((0, 0, 0),) * 3
    check_same_classes(info, ClassTable(info.classes.names, color), "mine.yaml")  # colours do not matter
    with pytest.raises(UsageError, match=r"only in the runtime: 1 class1\n.*only in the recipe: 1 car"):
        check_same_classes(info, ClassTable(("class0", "car", "class2"), color), "mine.yaml")
    with pytest.raises(UsageError, match="1 class1 / class2, 2 class2 / class1"):
        check_same_classes(info, ClassTable(("class0", "class2", "class1"), color), "mine.yaml")


def test_samples_of_folders_and_recipes_are_the_same(tmp_path: Path) -> None:
    plain = np.zeros((2, 2), np.uint8)
    written = [write(tmp_path, name, plain, plain) for name in ("a", "b")]
    from_folders = folder_samples(tmp_path / "images", tmp_path / "masks")
    val = LabeledFolder(images="images", masks="masks")
    from_recipe = recipe_samples(Data(root=str(tmp_path), val=val, classes=["x", "y"]))
    assert [(sample.image, sample.mask) for sample in from_folders] == [(one.image, one.mask) for one in written]
    assert from_recipe == from_folders


def test_missing_masks_are_told_in_the_words_of_the_command_line(tmp_path: Path) -> None:
    plain = np.zeros((2, 2), np.uint8)
    sample = write(tmp_path, "a", plain, plain)
    sample.mask.rename(sample.mask.with_name("a_mask.png"))
    with pytest.raises(DataError, match=r"--mask-template to '\{stem\}_mask\.png'"):
        folder_samples(tmp_path / "images", tmp_path / "masks")
    with pytest.raises(DataError, match="--masks: no such folder"):
        folder_samples(tmp_path / "images", tmp_path / "nowhere")


def test_images_without_masks_are_found_as_everywhere(tmp_path: Path) -> None:
    """What file managers leave is no image; a linked folder holds images."""
    plain = np.zeros((2, 2), np.uint8)
    sample = write(tmp_path, "a", plain, plain)
    for name in ("._a.png", ".hidden/b.png"):
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"nothing")
    (tmp_path / "images/linked").symlink_to(tmp_path / "masks")
    found = [one.image for one in folder_samples(tmp_path / "images")]
    assert found == [sample.image, tmp_path / "images/linked/a.png"]
