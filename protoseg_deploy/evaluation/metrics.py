"""Segmentation metrics from one confusion matrix.

torchmetrics has a confusion matrix too, and the tests hold this one against it. It is not used here because it is two
to three times slower (8 maps of 360x480, 11 classes, one core: 7 ms here, 19 ms there, 66 ms with its checks), indexes
by a mask (on a GPU: the host waits for it at every update), and counts a class that occurs nowhere as an IoU of 0.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from protoseg_deploy.distributed import sum_over_processes

IndexArray = NDArray[np.integer]


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of maps.

    Counting never makes the host wait for the device; reading a result does.

    Args:
        num_classes: C; class indices are 0..C-1.
        ignore_index: pixels with this value in the truth do not count.

    Attributes:
        bins: ``[C*C+2]`` int64 on the device of the first update, None before it: C*C counts, truth major, then the
            ignored pixels, then the pixels with an index out of range.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.bins: Tensor | None = None

    def update(self, prediction: Tensor | IndexArray, truth: Tensor | IndexArray) -> None:
        """Count the pixels of one or more class maps.

        Args:
            prediction: class indices of any integer dtype and any shape.
            truth: the same shape; may hold the ignore index.

        Raises:
            ValueError: the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(
                f"prediction is {list(prediction.shape)}, truth is {list(truth.shape)}: class maps are compared pixel "
                "by pixel, at the resolution of the truth"
            )
        predicted, true = _as_int32(prediction), _as_int32(truth)
        if self.bins is None:
            self.bins = torch.zeros(self.num_classes**2 + 2, dtype=torch.int64, device=predicted.device)
        predicted, true = predicted.to(self.bins.device), true.to(self.bins.device)
        classes, ignored, invalid = self.num_classes, self.num_classes**2, self.num_classes**2 + 1
        # min and max over both maps tell with two comparisons whether either is out of range
        out_of_range = (torch.minimum(predicted, true) < 0) | (torch.maximum(predicted, true) >= classes)
        index = (true * classes + predicted).masked_fill_(out_of_range, invalid)
        index.masked_fill_(true == self.ignore_index, ignored)  # last: an ignored pixel may hold anything
        self.bins += _count(index.flatten(), len(self.bins))

    def merge(self, other: "ConfusionMatrix") -> None:
        """Add the counts of another matrix of the same classes."""
        if (other.num_classes, other.ignore_index) != (self.num_classes, self.ignore_index):
            raise ValueError("confusion matrices of different classes or ignore index cannot be merged")
        if other.bins is None:
            return
        self.bins = other.bins.clone() if self.bins is None else self.bins + other.bins.to(self.bins.device)

    def merge_processes(self, device: torch.device) -> None:
        """Add the counts of the same matrix of all other processes: then every process has the sum.

        Args:
            device: where the processes exchange tensors; a matrix that was never updated adds zeros there.
        """
        empty = torch.zeros(self.num_classes**2 + 2, dtype=torch.int64, device=device)
        self.bins = sum_over_processes(empty if self.bins is None else self.bins.to(device))

    def counts(self) -> NDArray[np.int64]:
        """``[C,C]``: pixels by true class (rows) and predicted class (columns).

        Raises:
            ValueError: some update held an index out of range that was not the ignore index.
        """
        if self.bins is None:
            return np.zeros((self.num_classes, self.num_classes), dtype=np.int64)
        bins = self.bins.cpu().numpy()
        if bins[-1]:
            raise ValueError(
                f"{bins[-1]} pixels hold an index outside 0..{self.num_classes - 1} that is not the ignore index "
                f"{self.ignore_index}"
            )
        return bins[:-2].reshape(self.num_classes, self.num_classes).copy()

    def iou_percent(self) -> list[float]:
        """Intersection over union of each class, 0..100; nan for a class in neither truth nor prediction."""
        counts = self.counts()
        intersection = np.diagonal(counts)
        union = counts.sum(axis=0) + counts.sum(axis=1) - intersection
        return [
            100.0 * float(shared) / float(either) if either else math.nan
            for shared, either in zip(intersection, union, strict=True)
        ]

    def miou_percent(self) -> float:
        """Mean IoU over the classes that occur in truth or prediction, 0..100; nan without any counted pixel."""
        present = [iou for iou in self.iou_percent() if not math.isnan(iou)]
        return sum(present) / len(present) if present else math.nan

    def accuracy_percent(self) -> float:
        """Share of counted pixels whose class is right, 0..100; nan without any counted pixel."""
        counts = self.counts()
        total = int(counts.sum())
        return 100.0 * float(np.trace(counts)) / total if total else math.nan


def _as_int32(indices: Tensor | IndexArray) -> Tensor:
    if isinstance(indices, Tensor):
        if indices.is_floating_point() or indices.is_complex():
            raise TypeError(f"class indices are integers, got {indices.dtype}")
        return indices.detach().to(torch.int32)
    if not np.issubdtype(indices.dtype, np.integer):
        raise TypeError(f"class indices are integers, got {indices.dtype}")
    return torch.from_numpy(indices.astype(np.int32))  # a copy: decoded images are read-only, torch wants writable


def _count(index: Tensor, bins: int) -> Tensor:
    """How often each of 0..bins-1 occurs in a flat index."""
    if index.device.type == "cpu":
        return torch.bincount(index, minlength=bins)
    # bincount on a GPU asks the host for the largest index first
    ones = torch.ones((), dtype=torch.int64, device=index.device).expand(index.shape)
    return torch.zeros(bins, dtype=torch.int64, device=index.device).scatter_add_(0, index.long(), ones)
