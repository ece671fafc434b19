"""Images with their masks for evaluation: decoded in advance, checked, in batches of one size."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import read_image
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.data.pairs import require_fit
from protoseg_deploy.data.sources import UInt8Array
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading, MaskReading

Pair = tuple[UInt8Array, UInt8Array]


class Batch(NamedTuple):
    """Images ``[B,H,W,3]`` and masks ``[B,H,W]``, uint8."""

    images: UInt8Array
    masks: UInt8Array
    samples: tuple[Sample, ...]
    """What they were read from, to be named in errors."""


_READ_AHEAD = 8
"""Images decoded in the background while a network computes."""

WAITING_BATCHES = 4
"""Images of odd sizes wait for others of their size, as many as make this number of batches."""

_MASK_HINT = "Masks hold class indices at the size of their image; data.value_map replaces values, e.g. {11: 255}."


def read_batches(
    samples: Sequence[Sample], *, classes: int, images: ImageReading, masks: MaskReading, batch: int
) -> Iterator[Batch]:
    """Images and masks, at most `batch` of the same size at a time.

    Images of a size come in the order of the samples, but a size that fills a batch later comes later. Nothing is
    resized. After the first error no more batches come; the other samples are only checked, so that all
    errors are found at once.

    Args:
        samples: images with masks.
        classes: mask values are 0 up to here, or the ignore index.
        images: how images are read.
        masks: how masks are read; its ignore index does not count.
        batch: the largest B.

    Raises:
        DataError: images or masks that are unreadable or too large for the memory, sizes that differ, mask values that
            are no class: all of them, by file.
    """

    def read(sample: Sample) -> Pair:
        try:
            image, mask = _read(sample, images, masks)
            require_fit(sample, image, mask, classes, images, masks)
        except MemoryError:
            raise DataError(f"{sample.image}: it and its mask are too large for the memory") from None
        return image, mask

    groups: dict[tuple[int, ...], list[tuple[Sample, Pair]]] = {}
    faults: list[str] = []
    for sample, result in _ahead(samples, read):
        try:
            image, mask = result()
        except DataError as error:
            faults.append(error.message)
        if faults:
            groups.clear()
            continue
        groups.setdefault(mask.shape, []).append((sample, (image, mask)))
        if len(groups[mask.shape]) == batch:
            yield _stacked(groups.pop(mask.shape))
        elif sum(map(len, groups.values())) >= WAITING_BATCHES * batch:
            yield _stacked(groups.pop(max(groups, key=lambda size: len(groups[size]))))
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError(f"cannot evaluate: {count} in {len(samples)} images with masks", faults, _MASK_HINT)
    for group in groups.values():
        yield _stacked(group)


def _ahead(samples: Sequence[Sample], read: Callable[[Sample], Pair]) -> Iterator[tuple[Sample, Callable[[], Pair]]]:
    """Each sample, in order, with a call that gives its arrays or raises; a few are read in advance."""
    remaining = iter(samples)
    ahead: deque[tuple[Sample, Future[Pair]]] = deque()
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="read") as pool:
        try:
            while True:
                ahead.extend(
                    (sample, pool.submit(read, sample)) for sample in islice(remaining, _READ_AHEAD - len(ahead))
                )
                if not ahead:
                    return
                sample, future = ahead.popleft()
                yield sample, future.result
        finally:
            pool.shutdown(cancel_futures=True)


def _read(sample: Sample, images: ImageReading, masks: MaskReading) -> Pair:
    if sample.mask is None:
        raise DataError(f"{sample.image}: has no mask")
    return read_image(sample.image, images), read_mask(sample.mask, masks)


def _stacked(group: Sequence[tuple[Sample, Pair]]) -> Batch:
    samples = tuple(sample for sample, _ in group)
    return Batch(np.stack([image for _, (image, _) in group]), np.stack([mask for _, (_, mask) in group]), samples)
