"""Batches of images and masks: complete, of one size each, in memory that has a bound."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data.folders import Sample
from protoseg_deploy.errors import DataError
from protoseg_deploy.evaluation import reading
from protoseg_deploy.evaluation.reading import read_batches
from protoseg_deploy.recipe import ImageReading, MaskReading


def write(folder: Path, sizes: list[tuple[int, int]]) -> list[Sample]:
    """Images whose red channel is their number, and masks of zeros."""
    samples = []
    for number, size in enumerate(sizes):
        sample = Sample(folder / f"{number}.png", folder / f"{number}_mask.png")
        Image.fromarray(np.full((*size, 3), number, np.uint8)).save(sample.image)
        Image.fromarray(np.zeros(size, np.uint8)).save(sample.mask)
        samples.append(sample)
    return samples


def batches(samples: list[Sample], batch: int) -> list[list[int]]:
    """The numbers of the images of each batch."""
    found = []
    reading = {"images": ImageReading(), "masks": MaskReading()}
    for images, masks, read in read_batches(samples, classes=2, **reading, batch=batch):
        assert images.shape == (*masks.shape, 3)
        assert [samples[int(image[0, 0, 0])] for image in images] == list(read)
        found.append([int(image[0, 0, 0]) for image in images])
    return found


WIDE, HIGH = (4, 6), (6, 4)


def test_sizes_that_alternate_still_fill_batches(tmp_path: Path) -> None:
    samples = write(tmp_path, [WIDE, HIGH, WIDE, WIDE, HIGH, WIDE, WIDE])
    assert batches(samples, 2) == [[0, 2], [1, 4], [3, 5], [6]]
    assert batches(samples, 1) == [[number] for number in range(7)]
    assert batches(samples, 9) == [[0, 2, 3, 5, 6], [1, 4]]
    assert batches([], 3) == []


def test_no_more_than_a_few_batches_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = write(tmp_path, [(4, 4), (4, 4), *((4, width) for width in range(5, 13))])
    monkeypatch.setattr(reading, "WAITING_BATCHES", 1)
    assert batches(samples, 3)[0] == [0, 1], "the largest group goes first"
    assert sorted(number for group in batches(samples, 3) for number in group) == list(range(10))


def test_after_a_fault_nothing_more_comes_but_every_fault_is_told(tmp_path: Path) -> None:
    samples = write(tmp_path, [WIDE] * 20)
    Image.fromarray(np.full(WIDE, 2, np.uint8)).save(samples[3].mask)
    samples[17].image.write_bytes(b"nothing")
    samples[19] = Sample(samples[19].image, None)
    rest = read_batches(samples, classes=2, images=ImageReading(), masks=MaskReading(), batch=2)
    assert len(next(rest).images) == 2
    with pytest.raises(DataError, match="3 faults in 20 images") as raised:
        next(rest)
    assert "3_mask.png: ids out of range: 2 in " in raised.value.message
    assert "17.png" in raised.value.message
    assert "19.png: has no mask" in raised.value.message
