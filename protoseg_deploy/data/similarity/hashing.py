"""Perceptual hashes: 64 bits that hardly change when a picture is encoded again, brightened or scaled.

Each bit is the sign of one low frequency of the discrete cosine transform of a small grey picture, as in pHash
(Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010), but compared with zero instead of
the median. The hash of the mirrored or turned picture then follows from that of the picture: mirroring changes the sign
of every odd frequency, transposing exchanges the two.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_KEPT = 8
"""Frequencies a side."""
_COLUMNS = np.tile(np.arange(_KEPT), (_KEPT, 1)).ravel()
_ROWS = _COLUMNS.reshape(_KEPT, _KEPT).T.ravel()
ORIENTATIONS = 8
"""A picture can be mirrored and turned in so many ways, itself included."""
_AT_ONCE = 65_536
_BAND_BITS = 16
_BANDS = 64 // _BAND_BITS
_PAIRS_AT_ONCE = 2**22


def perceptual_hashes(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """``[N]`` hashes of ``[N,S,S]`` grey pictures."""
    side = pixels.shape[1]
    places = (2 * np.arange(side) + 1) * np.pi / (2 * side)
    transform = np.cos(np.outer(np.arange(_KEPT), places)).astype(np.float32)
    hashes = np.empty(len(pixels), np.uint64)
    for first in range(0, len(pixels), _AT_ONCE):
        some = pixels[first : first + _AT_ONCE].astype(np.float32)
        spectrum = (transform @ some @ transform.T).reshape(len(some), _KEPT * _KEPT)
        spectrum[:, 0] = 0  # the mean
        hashes[first : first + _AT_ONCE] = _packed(spectrum > 0)
    return hashes


def oriented_hashes(hashes: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    """``[N]`` hashes of the same pictures in every orientation, in the order of `oriented`."""
    mirrors = [_packed((sign % 2 == 1)[None])[0] for sign in (0 * _ROWS, _COLUMNS, _ROWS, _COLUMNS + _ROWS)]
    bits = np.unpackbits(hashes.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    transposed = _packed(bits.reshape(-1, _KEPT, _KEPT).transpose(0, 2, 1).reshape(-1, 64).astype(bool))
    for base in (hashes, transposed):
        for mirror in mirrors:
            yield base ^ mirror


def oriented(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """``[...,S,S]`` pictures in one of the `ORIENTATIONS`; 0 is as they are."""
    turned = pixels.swapaxes(-1, -2) if orientation >= 4 else pixels
    if orientation % 2:
        turned = turned[..., ::-1]
    return turned[..., ::-1, :] if orientation % 4 >= 2 else turned


def _packed(bits: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """``[N]`` numbers of ``[N,64]`` bits."""
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint64).ravel()


def close_pairs(
    first: NDArray[np.uint64], second: NDArray[np.uint64], most_bits: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Indices of hashes that differ in few bits: all pairs are compared.

    Args:
        first: ``[N]``.
        second: ``[M]``.
        most_bits: that may differ.

    Yields:
        Indices into `first` and into `second`, piece by piece.
    """
    rows = max(1, _PAIRS_AT_ONCE // max(1, len(second)))
    for begin in range(0, len(first), rows):
        differing = np.bitwise_count(first[begin : begin + rows, None] ^ second[None])
        left, right = np.nonzero(differing <= most_bits)
        yield left + begin, right


def close_pairs_of_many(
    first: NDArray[np.uint64], second: NDArray[np.uint64], most_bits: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """As `close_pairs`, by an index of 16 bits a piece, for millions of hashes.

    A pair is compared if one of its four pieces is the same up to one bit: all pairs that differ in up to 7 bits are
    found, and most of those that differ in a few more. A pair may come several times.
    """
    ones = [0, *(1 << bit for bit in range(_BAND_BITS))]
    for band in range(_BANDS):
        shift, mask = np.uint64(band * _BAND_BITS), np.uint64(2**_BAND_BITS - 1)
        keys, wanted = (((hashes >> shift) & mask).astype(np.int64) for hashes in (second, first))
        order = np.argsort(keys, kind="stable")
        starts = np.searchsorted(keys[order], np.arange(2**_BAND_BITS + 1))
        for change in ones:
            begins, ends = starts[wanted ^ change], starts[(wanted ^ change) + 1]
            for left, right in _expanded(begins, ends - begins):
                candidates = order[right]
                close = np.bitwise_count(first[left] ^ second[candidates]) <= most_bits
                yield left[close], candidates[close]


def _expanded(
    begins: NDArray[np.intp], counts: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """For each element its number and ``begins, begins + 1, …``, so many as it counts; some million at a time."""
    totals = np.cumsum(counts)
    element = 0
    while element < len(counts):
        base = totals[element - 1] if element else 0
        end = max(element + 1, int(np.searchsorted(totals, base + _PAIRS_AT_ONCE, side="right")))
        some = counts[element:end]
        left = np.repeat(np.arange(element, end), some)
        within = np.arange(len(left)) - np.repeat(np.cumsum(some) - some, some)
        yield left, begins[left] + within
        element = end
