"""A small data set without faults, for the tests of the check of the data."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.small_data import write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four labelled, six unlabelled and two validation images of differing sizes, without faults."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 4), ("more", 6), ("val", 2)):
        for number in range(count):
            height, width = 24 + number, 40 - number
            write(tmp_path / part / f"{number}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
            if part != "more":
                mask = rng.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width), p=[0.6, 0.2, 0.1, 0.1])
                write(tmp_path / f"{part}_masks" / f"{number}.png", mask)
    return tmp_path
