"""How alike two small grey pictures are: the second look at pairs whose hashes are close."""

import functools

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

_TEMPLATES = ((26, 32), (26, 29), (26, 26), (22, 22))
"""Side of a patch from the middle of one picture, and that of the whole picture it is cut from, after shrinking: the
smaller, the more was cropped off the other picture."""
_AT_ONCE = 256
_BLUR = 7
_PROMISING = 0.3
_FEW_PIXELS = 40
_TINY = 1e-3


def resemblances(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Float32Array:
    """How alike pictures are pair by pair, whichever of the two shows more of a scene.

    The normalised cross-correlation of their details at the best of some shifts and scales, 1 where they are the same.
    Details are what remains without slow changes over the picture, which pictures of one place all share.

    Args:
        first: ``[N,S,S]``.
        second: ``[N,S,S]``.

    Returns:
        ``[N]``, from -1 to 1.
    """
    found = np.empty(len(first), np.float32)
    for begin in range(0, len(first), _AT_ONCE):
        some = slice(begin, begin + _AT_ONCE)
        found[some] = _of_details(_details(first[some]), _details(second[some]))
    return found


def is_sparse(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """``[N]``: all that a picture shows is some small spots, so that another with a spot there is much like it.

    The effective number of pixels with details (participation ratio) is small.
    """
    energy = _details(pixels) ** 2
    effective = energy.sum((1, 2)) ** 2 / np.maximum((energy**2).sum((1, 2)), _TINY)
    result: NDArray[np.bool_] = effective < _FEW_PIXELS
    return result


def _of_details(one: Float32Array, other: Float32Array) -> Float32Array:
    """Scales are tried for those alone that are a little alike at the same scale."""
    best = _correlation(one, _template(other, *_TEMPLATES[0]))
    for patch, whole in _TEMPLATES:
        promising = best > _PROMISING
        for picture, template in ((one, other), (other, one)):
            match = _correlation(picture[promising], _template(template[promising], patch, whole))
            best[promising] = np.maximum(best[promising], match)
    return best


def _details(pixels: NDArray[np.uint8]) -> Float32Array:
    values = pixels.astype(np.float32)
    smoothing = _smoothing(values.shape[-1])
    return np.asarray(values - smoothing @ values @ smoothing.T, np.float32)


@functools.cache
def _smoothing(side: int) -> Float32Array:
    """``[side,side]``: a moving average that is narrower at the ends."""
    places = np.arange(side)
    near = np.abs(places[:, None] - places) <= _BLUR // 2
    averages: Float32Array = (near / near.sum(1, keepdims=True)).astype(np.float32)
    return averages


@functools.cache
def _shrinking(side: int, target: int) -> Float32Array:
    """``[target,side]``: averages over equal parts."""
    edges = np.linspace(0, side, target + 1)
    places = np.arange(side)
    share = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    averages: Float32Array = (np.maximum(share, 0) * target / side).astype(np.float32)
    return averages


def _template(pictures: Float32Array, patch: int, whole: int) -> Float32Array:
    """``[N,patch,patch]`` from the middle of pictures that were shrunk."""
    shrinking = _shrinking(pictures.shape[-1], whole)
    shrunk = np.asarray(shrinking @ pictures @ shrinking.T, np.float32)
    margin = (whole - patch) // 2
    return shrunk[:, margin : margin + patch, margin : margin + patch]


def _correlation(pictures: Float32Array, templates: Float32Array) -> Float32Array:
    """``[N]``: normalised cross-correlation at the best shift."""
    patch = templates.shape[-1]
    templates = templates - templates.mean((1, 2), keepdims=True)
    windows = np.lib.stride_tricks.sliding_window_view(pictures, (patch, patch), axis=(1, 2))
    shifts = windows.shape[1] * windows.shape[2]
    flat = windows.reshape(len(pictures), shifts, patch * patch)
    products = (flat @ templates.reshape(len(templates), patch * patch, 1))[..., 0]
    deviation = flat.std(2) * patch
    lengths = deviation * np.sqrt((templates**2).sum((1, 2)))[:, None]
    result: Float32Array = np.max(np.where(lengths > _TINY, products / np.maximum(lengths, _TINY), -1), axis=1)
    return result
