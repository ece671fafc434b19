"""Accuracy of anything that is a runtime: class maps against masks, at the resolution of the masks."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation.computing import CheckedRuntime, ComputeError, check_batch
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.evaluation.reading import read_batches
from protoseg_deploy.evaluation.samples import masks_of
from protoseg_deploy.recipe import ClassTable, MaskReading
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array
from protoseg_deploy.runtimes.tiling import default_overlap, predict_tiled

_SMALLER = "Make --batch smaller; a run can be evaluated by --window, and an export of fixed --size works in tiles."


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`."""

    class_names: tuple[str, ...]
    iou_percent: tuple[float, ...]
    """IoU by class, 0..100; nan for a class in neither truth nor prediction."""
    miou_percent: float
    """Mean over the classes that occur."""
    accuracy_percent: float
    """Share of counted pixels that are right."""
    truth_pixels: tuple[int, ...]
    """Counted pixels by true class."""
    images: int
    tiled_images: int
    """Images that were not of the runtime's fixed size, or above its largest, and were predicted in tiles."""
    seconds: float
    """From the first file to the last counted pixel."""
    predict_seconds: float
    """Spent in the runtime, arrays in to arrays out; reading and counting left out."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys; nan becomes None."""
        return {
            "miou_percent": _or_none(self.miou_percent),
            "accuracy_percent": _or_none(self.accuracy_percent),
            "iou_percent": {name: _or_none(iou) for name, iou in zip(self.class_names, self.iou_percent, strict=True)},
            "truth_pixels": dict(zip(self.class_names, self.truth_pixels, strict=True)),
            "images": self.images,
            "tiled_images": self.tiled_images,
            "seconds": self.seconds,
            "predict_seconds": self.predict_seconds,
            "images_per_second": self.images / self.seconds,
        }


def evaluate(
    runtime: Runtime,
    samples: Sequence[Sample],
    *,
    masks: MaskReading | None = None,
    batch: int | None = None,
    progress: Callable[[int, int], object] | None = None,
    observe: Callable[[UInt8Array, NDArray[np.integer]], object] | None = None,
) -> Evaluation:
    """Compare a runtime's class maps with masks, pixel by pixel.

    Nothing is resized: an image and its mask must have the same size. Images of equal size share a batch. Images that
    are not of the fixed input size of a runtime, or larger than an engine's profile allows, are predicted in
    overlapping tiles.

    Args:
        runtime: what is evaluated.
        samples: images with masks.
        masks: how masks are read; its ignore index does not count. See `masks_of` when absent.
            Images are always read as the runtime says.
        batch: images per call; 1 on a CPU and 4 on a GPU, or fewer if an engine takes no more, when absent.
        progress: called with (images done, images in all).
        observe: called with the class maps of each batch and the masks, ``[B,H,W]``.

    Raises:
        DataError: unreadable images or masks, sizes that differ, mask values that are no class: all of them, by file.
        UsageError: an engine takes no such batch.
        ProtosegError: the runtime cannot compute an image, which is named: there is no accuracy without it.
    """
    if not samples:
        raise DataError("there is nothing to evaluate: no image with a mask")
    info = runtime.info
    masks = masks or masks_of(info)
    batch = _images_per_call(info, batch)
    matrix = ConfusionMatrix(len(info.classes), masks.ignore_index)
    done = tiled = predict_ns = 0
    start = time.perf_counter()
    checked = CheckedRuntime(runtime)
    try:
        for images, truth, read in read_batches(
            samples, classes=len(info.classes), images=info.reading, masks=masks, batch=batch
        ):
            begin = time.perf_counter_ns()
            tile = _tile_of(info, (images.shape[1], images.shape[2]))
            try:
                if tile == images.shape[1:3]:
                    predicted = checked.predict(images)
                else:
                    predicted = _predict_in_tiles(checked, images, tile, batch)
                    tiled += len(images)
            except ComputeError as error:
                raise _failure(error, info, images, [str(sample.image) for sample in read]) from error
            predict_ns += time.perf_counter_ns() - begin
            matrix.update(predicted, truth)
            if observe is not None:
                observe(predicted, truth)
            done += len(images)
            if progress is not None:
                progress(done, len(samples))
    except MemoryError:
        raise ProtosegError("too little memory for a batch of images and masks", _SMALLER) from None
    counts = matrix.counts()
    return Evaluation(
        class_names=info.classes.names,
        iou_percent=tuple(matrix.iou_percent()),
        miou_percent=matrix.miou_percent(),
        accuracy_percent=matrix.accuracy_percent(),
        truth_pixels=tuple(int(pixels) for pixels in counts.sum(axis=1)),
        images=done,
        tiled_images=tiled,
        seconds=time.perf_counter() - start,
        predict_seconds=predict_ns / 1e9,
    )


def check_same_classes(info: RuntimeInfo, classes: ClassTable, source: str) -> None:
    """Refuse to evaluate a runtime on masks that mean something else.

    Args:
        info: the runtime.
        classes: what the mask values mean.
        source: where `classes` come from, for the message.

    Raises:
        UsageError: names or their order differ; the message says which.
    """
    ours, theirs = info.classes.names, classes.names
    if ours == theirs:
        return
    lines = [f"{info.path} and {source} do not have the same classes:"]
    for title, some, others in (("only in the runtime", ours, theirs), ("only in the recipe", theirs, ours)):
        alone = [f"{index} {name}" for index, name in enumerate(some) if name not in others]
        if alone:
            lines.append(f"  {title}: {', '.join(alone)}")
    if len(lines) == 1:
        moved = [
            f"{index} {ours[index]} / {theirs[index]}" for index in range(len(ours)) if ours[index] != theirs[index]
        ]
        lines.append(f"  another order (runtime / recipe): {', '.join(moved)}")
    raise UsageError(
        "\n".join(lines), "Use the recipe the runtime was trained with; data.value_map can merge mask values."
    )


def _images_per_call(info: RuntimeInfo, asked: int | None) -> int:
    check_batch(info, asked)
    default = 1 if info.device == "cpu" else 4
    return asked or (default if info.batch_range is None else min(default, info.batch_range[1]))


def _failure(error: ComputeError, info: RuntimeInfo, images: UInt8Array, names: Sequence[str]) -> ProtosegError:
    """What to tell of a batch that was not computed."""
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    size = f"{images.shape[2]}x{images.shape[1]} pixels"
    message = f"{names[0]}{others}: {info.path} cannot compute {size}: {error.message}"
    return ProtosegError(message, _SMALLER if error.kind == "memory" else error.hint)


def _tile_of(info: RuntimeInfo, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width in which images of a size are predicted: the same, unless a runtime does not take it."""
    if info.fixed_size is not None:
        return info.fixed_size
    if info.size_range is None:
        return size
    highest, widest = info.size_range[1]
    return min(size[0], highest), min(size[1], widest)


def _predict_in_tiles(runtime: Runtime, images: UInt8Array, tile: tuple[int, int], batch: int) -> UInt8Array:
    return np.stack([predict_tiled(runtime, image, tile, default_overlap(tile), batch) for image in images])


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
