"""Accuracy of several runtimes on the same images, with intervals, for a table beside their latencies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data import Sample
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.evaluation.evaluate import evaluate
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.evaluation.samples import masks_of
from protoseg_deploy.recipe import MaskReading
from protoseg_deploy.runtimes.base import Runtime, UInt8Array

_RESAMPLES = 2000


@dataclass(frozen=True)
class Accuracy:
    """How well one runtime segments the images."""

    images: int
    miou_percent: float
    """Mean IoU over the classes that occur, 0..100, as `evaluate` gives it."""
    miou_low_percent: float
    """Lower end of its 95 % interval, from a bootstrap over images: another set of such images gives another mIoU."""
    miou_high_percent: float
    agreement_percent: float
    """Share of the pixels of all images whose class is that of the first runtime."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys."""
        return {
            "miou_percent": self.miou_percent,
            "miou_low_percent": self.miou_low_percent,
            "miou_high_percent": self.miou_high_percent,
            "agreement_percent": self.agreement_percent,
            "accuracy_images": self.images,
        }


def measure_accuracy(
    runtimes: Sequence[Runtime],
    samples: Sequence[Sample],
    *,
    masks: MaskReading | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> list[Accuracy]:
    """Evaluate runtimes on the same images, image by image.

    Args:
        runtimes: of the same classes.
        samples: images with masks.
        masks: how masks are read; see `masks_of` of the first runtime when absent.
        progress: called with (images done, images in all).

    Raises:
        UsageError: the runtimes have different classes.
        DataError, ProtosegError: see `evaluate`.
    """
    first = runtimes[0].info
    for runtime in runtimes[1:]:
        if runtime.info.classes.names != first.classes.names:
            raise UsageError(
                f"{runtime.info.path} and {first.path} do not have the same classes: "
                f"{', '.join(runtime.info.classes.names)}; {', '.join(first.classes.names)}",
                "Only runtimes of the same classes can be compared on the same masks.",
            )
    masks = masks or masks_of(first)
    totals = np.zeros((len(runtimes), len(samples), 3, len(first.classes)), dtype=np.int64)
    equal = np.zeros(len(runtimes), dtype=np.int64)
    pixels = 0
    for number, sample in enumerate(samples):
        reference: UInt8Array | None = None
        for place, runtime in enumerate(runtimes):
            class_map, counts = _judged(runtime, sample, masks)
            totals[place, number] = np.diagonal(counts), counts.sum(axis=0), counts.sum(axis=1)
            reference = class_map if reference is None else reference
            equal[place] += np.count_nonzero(class_map == reference)
            pixels += class_map.size if place == 0 else 0
        if progress is not None:
            progress(number + 1, len(samples))
    if not totals.any():
        raise DataError("no pixel of any mask counts: all have the ignored value", [str(samples[0].mask)])
    return [_accuracy(totals[place], float(equal[place]) / pixels) for place in range(len(runtimes))]


def miou_interval(totals: NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the mean IoU, in percent: the images are drawn with replacement, again and again.

    Args:
        totals: ``[N,3,C]``, of each image and class: pixels that are right, predicted, and true.
    """
    drawn = np.random.default_rng(0).multinomial(len(totals), np.full(len(totals), 1 / len(totals)), _RESAMPLES)
    sums = (drawn @ totals.reshape(len(totals), -1)).reshape(_RESAMPLES, *totals.shape[1:])
    low, high = np.nanpercentile(_miou(sums), [2.5, 97.5])
    return float(low), float(high)


def _judged(runtime: Runtime, sample: Sample, masks: MaskReading) -> tuple[UInt8Array, NDArray[np.int64]]:
    """Class map of an image, and its confusion matrix."""
    matrix = ConfusionMatrix(len(runtime.info.classes), masks.ignore_index)
    seen: list[UInt8Array] = []

    def look(predicted: UInt8Array, truth: NDArray[np.integer]) -> None:
        matrix.update(predicted, truth)
        seen.append(predicted)

    evaluate(runtime, [sample], masks=masks, batch=1, observe=look)
    return seen[0], matrix.counts()


def _accuracy(totals: NDArray[np.int64], agreement: float) -> Accuracy:
    low, high = miou_interval(totals)
    miou = float(_miou(totals.sum(axis=0)))
    return Accuracy(len(totals), miou, low, high, 100 * agreement)


def _miou(sums: NDArray[np.integer]) -> NDArray[np.float64]:
    """Mean IoU in percent of ``[...,3,C]`` sums, over the classes that occur."""
    right, predicted, true = sums[..., 0, :], sums[..., 1, :], sums[..., 2, :]
    union = predicted + true - right
    occurs = union > 0
    iou = np.divide(right, union, out=np.zeros(union.shape), where=occurs)
    count = occurs.sum(axis=-1)
    mean: NDArray[np.float64] = np.divide(iou.sum(axis=-1), count, out=np.full(count.shape, np.nan), where=count > 0)
    return 100 * mean
