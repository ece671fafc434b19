"""The percentiles a recipe names, measured once over its images: from then on they are two numbers.

A range that every image had of its own would make equal values unequal across images.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.folders import DataSets
from protoseg_deploy.data.images import read_values
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading, Recipe, percentiles_of

_MOST_IMAGES = 200
_MOST_PIXELS = 20_000
"""Of an image, evenly spaced."""
_MOST_THREADS = 8


def with_measured_range(recipe: Recipe, sets: DataSets) -> Recipe:
    """The recipe with numbers in place of percentiles, of the values of its labelled and unlabelled images.

    At most 200 images are read, evenly spaced; the same files give the same numbers.

    Args:
        recipe: returned as it is where it names none.
        sets: its files.

    Raises:
        DataError: none of the images can be read, or they all hold one value.
    """
    data = recipe.data
    if not isinstance(data.value_range, str):
        return recipe
    reading = ImageReading(bands=data.bands, alpha=data.alpha, exif=data.exif)
    low, high = _measure([*(sample.image for sample in sets.labeled)], sets.unlabeled, data.value_range, reading)
    changes = {"value_range": (low, high), "value_range_from": data.value_range}
    return recipe.model_copy(update={"data": data.model_copy(update=changes)})


def _measure(
    labeled: Sequence[Path], unlabeled: Sequence[Path], percentiles: str, reading: ImageReading
) -> tuple[float, float]:
    paths = [*_evenly_spaced(labeled, _MOST_IMAGES // 2), *_evenly_spaced(unlabeled, _MOST_IMAGES // 2)]
    failed: list[str] = []

    def sampled(path: Path) -> NDArray[Any] | None:
        try:
            values = read_values(path, reading)
        except DataError as error:
            failed.append(error.message)
            return None
        pixels = values.reshape(-1, values.shape[2])
        pixels = pixels[:: max(1, len(pixels) // _MOST_PIXELS)].astype(np.float64)
        finite: NDArray[np.float64] = pixels[np.isfinite(pixels)]
        return finite

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        found = [values for values in pool.map(sampled, paths) if values is not None and values.size]
    if not found:
        raise DataError(
            f"data.value_range: {percentiles}: none of {len(paths)} images could be measured", sorted(failed)
        )
    low, high = (float(value) for value in np.percentile(np.concatenate(found), percentiles_of(percentiles)))
    if low == high:
        raise DataError(
            f"data.value_range: {percentiles}: both percentiles of {len(found)} images are {low:g}",
            hint="Take percentiles further apart, or give [LOW, HIGH].",
        )
    return low, high


def _evenly_spaced(paths: Sequence[Path], count: int) -> list[Path]:
    if len(paths) <= count:
        return list(paths)
    return [paths[index] for index in np.linspace(0, len(paths) - 1, count).astype(int).tolist()]
