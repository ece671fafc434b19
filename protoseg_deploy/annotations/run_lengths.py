"""Run-length codes of masks, decoded only after their lengths were found to fit: a file may claim anything."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.annotations.shapes import BadRecordError, BoolArray


def decode_runs(counts: Sequence[int] | NDArray[np.int64], height: int, width: int, *, by_column: bool) -> BoolArray:
    """Runs of pixels, off and on in turn, beginning with off.

    Args:
        counts: length of each run.
        height: of the mask, in pixels.
        width: of the mask, in pixels.
        by_column: the order is that of COCO, down each column; otherwise along each row.

    Returns:
        ``[height,width]``

    Raises:
        BadRecordError: a length is negative, or they do not add up to the mask.
    """
    try:
        runs = np.asarray(counts)
        if runs.dtype.kind not in "iu":  # before the sum: floats and texts too
            runs = np.array([_length(count) for count in counts], dtype=np.int64)
    except (OverflowError, ValueError):
        raise BadRecordError("run lengths that are no whole numbers") from None
    if runs.ndim != 1 or (runs < 0).any() or (runs > height * width).any():
        raise BadRecordError(f"run lengths below 0 or above the {height * width:,} pixels of {width}x{height}")
    total = int(runs.sum())
    if total != height * width:
        raise BadRecordError(f"run lengths of {total:,} pixels for {width}x{height}, which are {height * width:,}")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T if by_column else flat.reshape(height, width)


def encode_runs(pixels: BoolArray, *, by_column: bool) -> list[int]:
    """What `decode_runs` reads."""
    flat = (pixels.T if by_column else pixels).ravel()
    if not flat.size:
        return []
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts: list[int] = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *counts] if flat[0] else counts


def parse_coco_counts(code: str) -> NDArray[np.int64]:
    """Run lengths of COCO's compressed text: 5 bits a character, lowest first, from the third run on as differences.

    Raises:
        BadRecordError: it holds other characters, ends within a number, or a number is too large.
    """
    values = np.frombuffer(code.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64) - 48
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    if (values < 0).any() or (values > 63).any():
        raise BadRecordError("compressed run lengths with characters that they do not have")
    ends = np.flatnonzero(values & 32 == 0)
    if not len(ends) or ends[-1] != len(values) - 1:
        raise BadRecordError("compressed run lengths that end within a number")
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 8:
        raise BadRecordError("compressed run lengths with a number of more than 40 bits")
    shifts = 5 * (np.arange(len(values)) - np.repeat(starts, lengths))
    numbers = np.add.reduceat((values & 31) << shifts, starts)
    negative = values[ends] & 16 != 0
    numbers = np.where(negative, numbers - (np.int64(1) << (5 * lengths)), numbers)
    # every second run is a difference to the one two before it
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _length(count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, (int, float)) or count != int(count):
        raise ValueError
    return int(count)
