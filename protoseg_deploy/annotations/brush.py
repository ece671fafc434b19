"""The brush strokes of Label Studio: runs and single words of a bit stream, four bytes a pixel.

The stream begins with the number of words (32 bits), the bits of a word less one (5), and four lengths of counts less
one (4 each). Then come blocks: a bit that says whether one word is repeated, two that choose a length, the count less
one, and one word, or as many as counted. The fourth byte of a pixel is its opacity.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.annotations.shapes import BadRecordError, BoolArray

_CHANNELS = 4
_WORD = 8


def decode_brush(code: Sequence[int], height: int, width: int) -> BoolArray:
    """Pixels that are painted.

    Args:
        code: bytes.
        height: of the image.
        width: of the image.

    Returns:
        ``[height,width]``

    Raises:
        BadRecordError: it is no such stream, ends early, or is that of another size.
    """
    try:
        data = np.array(code, dtype=np.int64)
    except (TypeError, ValueError, OverflowError):
        raise BadRecordError("`rle` is no list of bytes") from None
    if data.ndim != 1 or not data.size or data.min() < 0 or data.max() > 255:
        raise BadRecordError("`rle` is no list of bytes")
    stream = _Bits(data.astype(np.uint8))
    words = stream.read(32)
    if words != height * width * _CHANNELS:
        raise BadRecordError(f"`rle` of {words:,} words for {width}x{height} pixels, which have {_CHANNELS} each")
    word = stream.read(5) + 1
    if word != _WORD:
        raise BadRecordError(f"`rle` with words of {word} bits; brushes have {_WORD}")
    lengths = [stream.read(4) + 1 for _ in range(4)]
    pixels = np.zeros(words, dtype=np.uint8)
    at = 0
    while at < words:
        is_run = stream.read(1)
        end = at + 1 + stream.read(lengths[stream.read(2)])
        if end > words:
            raise BadRecordError("`rle` holds more pixels than its image")
        pixels[at:end] = stream.read(word) if is_run else stream.words(end - at)
        at = end
    return pixels.reshape(height, width, _CHANNELS)[..., 3] > 0


class _Bits:
    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._bits = np.unpackbits(data)
        self._bytes = data.tobytes()
        self._at = 0

    def read(self, size: int) -> int:
        """A number of some bits, the highest first."""
        first, self._at = self._at, self._at + size
        if self._at > len(self._bits):
            raise BadRecordError("`rle` ends early")
        part = int.from_bytes(self._bytes[first >> 3 : (self._at + 7) >> 3], "big")
        return part >> (-self._at % 8) & ((1 << size) - 1)

    def words(self, count: int) -> NDArray[np.uint8]:
        """Bytes, which may lie across those of the data."""
        first, self._at = self._at, self._at + count * _WORD
        if self._at > len(self._bits):
            raise BadRecordError("`rle` ends early")
        return np.packbits(self._bits[first : self._at])
