"""Values of any type to uint8: a range of stored values becomes 0 to 255."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**22
"""Values computed at a time, so that a large image needs no second copy of itself in float."""


def to_uint8(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """``round(255 * (value - low) / (high - low))``, halves upwards, clipped to 0 and 255; NaN becomes 0.

    Args:
        values: of any shape; 8 and 16 bits are looked up in a table.
        low: becomes 0.
        high: becomes 255; above `low`.

    Returns:
        A new array of the same shape.
    """
    if values.dtype in (np.uint8, np.uint16):
        every = np.arange(np.iinfo(values.dtype).max + 1)
        return np.take(_scaled(every, low, high), values)
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _CHUNK // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        result[start : start + rows] = _scaled(values[start : start + rows], low, high)
    return result


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    # Ranges and values far apart overflow to infinity on the way, which is cut off as it should be.
    with np.errstate(over="ignore", invalid="ignore"):
        shares = (values.astype(np.float64) - low) / (high - low)
        scaled = np.floor(255.0 * np.clip(shares, 0.0, 1.0) + 0.5)
    return np.nan_to_num(scaled, nan=0.0).astype(np.uint8)
