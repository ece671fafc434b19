"""The confusion matrix against scikit-learn, torchmetrics and arithmetic by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score
from torchmetrics.functional.classification import multiclass_jaccard_index

from protoseg_deploy.evaluation.metrics import ConfusionMatrix

CLASSES = 7


def random_maps(seed: int, dtype: torch.dtype = torch.int64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, CLASSES, (3, 17, 23), generator=generator)
    prediction = torch.where(
        torch.rand(truth.shape, generator=generator) < 0.6,
        truth,
        torch.randint(0, CLASSES, truth.shape, generator=generator),
    )
    truth[torch.rand(truth.shape, generator=generator) < 0.15] = 255
    return prediction.to(dtype), truth.to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_agrees_with_scikit_learn_and_torchmetrics(dtype: torch.dtype) -> None:
    matrix = ConfusionMatrix(CLASSES)
    batches = [random_maps(seed, dtype) for seed in range(3)]
    for prediction, truth in batches:
        matrix.update(prediction, truth)
    prediction, truth = (torch.cat(maps).long() for maps in zip(*batches, strict=True))
    counted = truth != 255
    flat_truth, flat_prediction = truth[counted].numpy(), prediction[counted].numpy()

    np.testing.assert_array_equal(matrix.counts(), confusion_matrix(flat_truth, flat_prediction))
    np.testing.assert_allclose(matrix.iou_percent(), 100 * jaccard_score(flat_truth, flat_prediction, average=None))
    assert matrix.accuracy_percent() == pytest.approx(100 * accuracy_score(flat_truth, flat_prediction))
    reference = multiclass_jaccard_index(prediction, truth, CLASSES, ignore_index=255)
    assert matrix.miou_percent() == pytest.approx(100 * float(reference), rel=1e-5)


def test_numpy_and_read_only_arrays_count_like_tensors() -> None:
    prediction, truth = random_maps(0, torch.uint8)
    from_tensors, from_arrays = ConfusionMatrix(CLASSES), ConfusionMatrix(CLASSES)
    from_tensors.update(prediction, truth)
    frozen = truth.numpy().copy()
    frozen.setflags(write=False)
    from_arrays.update(prediction.numpy().astype(np.uint16), frozen)
    np.testing.assert_array_equal(from_tensors.counts(), from_arrays.counts())


def test_absent_classes_are_nan_and_leave_the_mean_alone() -> None:
    matrix = ConfusionMatrix(4)
    matrix.update(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
    iou = matrix.iou_percent()
    assert iou[:3] == [100.0, 50.0, 0.0]  # class 2 is predicted, but never true
    assert math.isnan(iou[3])
    assert matrix.miou_percent() == pytest.approx(50.0)


def test_ignored_pixels_do_not_count_whatever_is_predicted_there() -> None:
    matrix = ConfusionMatrix(2, ignore_index=9)
    matrix.update(np.array([0, 1, 1, 200]), np.array([0, 1, 9, 9]))
    assert matrix.counts().tolist() == [[1, 0], [0, 1]]
    empty = ConfusionMatrix(2)
    empty.update(np.array([0]), np.array([255]))
    assert math.isnan(empty.miou_percent())
    assert math.isnan(empty.accuracy_percent())


def test_an_ignore_index_among_the_classes_is_honoured() -> None:
    matrix = ConfusionMatrix(3, ignore_index=0)
    matrix.update(np.array([0, 1, 1]), np.array([0, 1, 2]))
    assert matrix.counts().tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 0]]


def test_merging_equals_counting_everything_at_once() -> None:
    (first, first_truth), (second, second_truth) = random_maps(1), random_maps(2)
    together, left, right = (ConfusionMatrix(CLASSES) for _ in range(3))
    together.update(torch.cat([first, second]), torch.cat([first_truth, second_truth]))
    left.update(first, first_truth)
    right.update(second, second_truth)
    total = ConfusionMatrix(CLASSES)
    for part in (ConfusionMatrix(CLASSES), left, right):
        total.merge(part)
    np.testing.assert_array_equal(total.counts(), together.counts())
    assert left.counts().sum() < total.counts().sum()  # merging copies: the parts stay what they were
    with pytest.raises(ValueError, match="cannot be merged"):
        total.merge(ConfusionMatrix(CLASSES + 1))


@pytest.mark.parametrize(("prediction", "truth"), [([0, 2], [0, 1]), ([0, 1], [0, 2]), ([0, -1], [0, 1])])
def test_indices_out_of_range_are_an_error(prediction: list[int], truth: list[int]) -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array(prediction), np.array(truth))
    with pytest.raises(ValueError, match=r"1 pixels hold an index outside 0\.\.1"):
        matrix.iou_percent()


def test_different_sizes_are_an_error() -> None:
    with pytest.raises(ValueError, match="resolution of the truth"):
        ConfusionMatrix(2).update(np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8))


def test_probabilities_are_refused() -> None:
    with pytest.raises(TypeError, match="integers"):
        ConfusionMatrix(2).update(torch.rand(3), torch.zeros(3))
