"""In which order a pool of images is passed over."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_ORDER = 3


def epoch_order(pool: int, batch: int, step: int, seed: int, role: int) -> list[int]:
    """Indices of step `step` when a pool is passed over again and again, each time in a new random order."""
    indices: list[int] = []
    position, end = step * batch, (step + 1) * batch
    while position < end:
        epoch, offset = divmod(position, pool)
        taken = _epoch_permutation(pool, seed, role, epoch)[offset : offset + end - position]
        indices.extend(taken.tolist())
        position += len(taken)
    return indices


@lru_cache(maxsize=4)
def _epoch_permutation(pool: int, seed: int, role: int, epoch: int) -> NDArray[np.int64]:
    """Kept for the steps of the same epoch: two pools, at the turn of an epoch."""
    return np.random.default_rng((seed, _ORDER, role, epoch)).permutation(pool)
