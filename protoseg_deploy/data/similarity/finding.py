"""Pictures of the same scene: copies that were encoded again, cropped, brightened, mirrored or turned; next frames."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.similarity.hashing import (
    close_pairs,
    close_pairs_of_many,
    oriented,
    oriented_hashes,
    perceptual_hashes,
)
from protoseg_deploy.data.similarity.resemblance import is_sparse, resemblances

SAME_SCENE = 0.7
"""Least resemblance of two pictures of one scene."""
_SAME_SPOTS = 0.9
"""The same of pictures that show some spots alone, which resemble each other by chance."""
_ALL_PAIRS = 2**32
"""More comparisons of two hashes than that are left to the index."""
_MOST_BITS, _MOST_BITS_OF_MANY = 20, 10
MOST_PAIRS = 400_000
"""Pairs that are looked at a second time, the closest first."""
_PLAIN = 2.0
"""Standard deviation of grey levels below which a picture shows nothing to compare."""


@dataclass(frozen=True)
class SimilarPair:
    """Two pictures of one scene."""

    first: int
    second: int
    resemblance: float
    """See `resemblances`."""
    orientation: int
    """How the first one is mirrored or turned to look like the second; 0: it is not."""


def find_similar(
    first: NDArray[np.uint8], second: NDArray[np.uint8] | None = None, least: float = SAME_SCENE
) -> list[SimilarPair]:
    """Pairs of thumbnails that show one scene, in any orientation, the most alike first.

    Perceptual hashes choose the pairs worth a second look: all whose hashes differ in up to 20 of 63 bits, or in up to
    7, and most in up to 10, where there are too many to compare each with each.

    Args:
        first: ``[N,S,S]`` grey.
        second: ``[M,S,S]``; None: pairs among `first`, each once.
        least: resemblance from which on a pair counts.
    """
    others = first if second is None else second
    many = len(first) * len(others) > _ALL_PAIRS // 8
    choose, most_bits = (close_pairs_of_many, _MOST_BITS_OF_MANY) if many else (close_pairs, _MOST_BITS)
    base, target = perceptual_hashes(first), perceptual_hashes(others)
    rich, rich_others = _is_rich(first), _is_rich(others)
    sparse, sparse_others = is_sparse(first), is_sparse(others)
    candidates = np.empty((0, 4), np.intp)
    for orientation, hashes in enumerate(oriented_hashes(base)):
        for left, right in choose(hashes, target, most_bits):
            wanted = rich[left] & rich_others[right]
            if second is None:
                wanted &= left < right
            left, right = left[wanted], right[wanted]
            differing = np.bitwise_count(hashes[left] ^ target[right]).astype(np.intp)
            some = np.stack([left, right, np.full_like(left, orientation), differing], axis=1)
            candidates = np.concatenate([candidates, some])
            if len(candidates) > 2 * MOST_PAIRS:
                candidates = _closest(candidates)
    candidates = _closest(candidates)
    doubtful = sparse[candidates[:, 0]] | sparse_others[candidates[:, 1]]
    wanted_alike = np.where(doubtful, max(least, _SAME_SPOTS), least)
    return _best_of_each_pair(_compared(first, others, candidates, wanted_alike))


def _closest(candidates: NDArray[np.intp]) -> NDArray[np.intp]:
    """The pairs that are looked at, each once; the last column is how many bits differ."""
    unique = np.unique(candidates, axis=0)
    return unique[np.argsort(unique[:, 3], kind="stable")][:MOST_PAIRS]


def _is_rich(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    deviation: NDArray[np.float32] = pixels.std(axis=(1, 2), dtype=np.float32)
    return deviation >= _PLAIN


def _compared(
    first: NDArray[np.uint8], others: NDArray[np.uint8], candidates: NDArray[np.intp], least: NDArray[np.float64]
) -> Iterable[SimilarPair]:
    for orientation in np.unique(candidates[:, 2]):
        chosen = candidates[:, 2] == orientation
        some, wanted = candidates[chosen], least[chosen]
        for begin in range(0, len(some), 4096):
            part = some[begin : begin + 4096]
            alike = resemblances(oriented(first[part[:, 0]], int(orientation)), others[part[:, 1]])
            for index in np.flatnonzero(alike >= wanted[begin : begin + 4096]):
                yield SimilarPair(int(part[index, 0]), int(part[index, 1]), float(alike[index]), int(orientation))


def _best_of_each_pair(found: Iterable[SimilarPair]) -> list[SimilarPair]:
    best: dict[tuple[int, int], SimilarPair] = {}
    for pair in found:
        place = (pair.first, pair.second)
        if place not in best or pair.resemblance > best[place].resemblance:
            best[place] = pair
    return sorted(best.values(), key=lambda pair: (-pair.resemblance, pair.first, pair.second))


def groups_of(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """For each of so many elements the smallest one that it is connected with through pairs."""
    parent = list(range(count))

    def root(element: int) -> int:
        while parent[element] != element:
            parent[element] = parent[parent[element]]
            element = parent[element]
        return element

    for first, second in pairs:
        one, other = sorted((root(first), root(second)))
        parent[other] = one
    return [root(element) for element in range(count)]


def joined(*groupings: Sequence[object]) -> list[int]:
    """Elements that are together in any of several groupings are together; see `groups_of`."""
    count = len(groupings[0])
    pairs = []
    for grouping in groupings:
        first: dict[object, int] = {}
        pairs += [(first.setdefault(group, element), element) for element, group in enumerate(grouping)]
    return groups_of(count, pairs)
