"""Dividing labelled images into training and validation images, groups of images as a whole."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.drawing import covering

_TRIALS = 4_000
_EMPTY, _ABSENT, _SIZE = 1e6, 10.0, 2.0
"""What a part without images, a class that is missing in one part, and a wrong number of images cost beside uneven
classes."""


@dataclass(frozen=True)
class Evenness:
    """How alike the classes of the parts are."""

    classes: int
    absent_in_training: tuple[int, ...]
    """Positions of the classes that only validation images show."""
    absent_in_validation: tuple[int, ...]
    largest_deviation: float
    """Of the share of a class that lies in the validation images from the share of images that do: 0 is even."""


def split_groups(pixels: NDArray[np.int64], groups: Sequence[int], val_count: int, seed: int) -> NDArray[np.bool_]:
    """Choose validation images so that every class is in both parts, as far as groups allow it, and evenly.

    From many random divisions into whole groups, and exchanges of groups between the parts, the one with the least cost
    is taken: classes that one part lacks, then the number of images, then how evenly the pixels and images of each
    class are divided.

    Args:
        pixels: ``[N,C]`` of each class in each image.
        groups: of each image; images of a group stay together.
        val_count: wanted.
        seed: of the search.

    Returns:
        ``[N]``: which images are for validation.
    """
    random = np.random.default_rng(seed)
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    sizes = np.bincount(members)
    shown = (pixels > 0).astype(np.int64)
    facts = np.concatenate([pixels, shown], axis=1)
    by_group = np.zeros((len(names), facts.shape[1]))
    np.add.at(by_group, members, facts)
    state = _Division(by_group, sizes, pixels.shape[1], val_count, _filled(sizes, val_count, random))
    best, best_cost = state.chosen.copy(), state.cost()
    cost = best_cost
    for trial in range(_TRIALS if len(names) > 1 else 0):
        flipped = random.choice(len(names), size=1 + trial % 2, replace=False) if len(names) > 2 else [trial % 2]
        state.flip(flipped)
        now = state.cost()
        heat = 0.2 * (1 - trial / _TRIALS) ** 3
        if now < cost or random.random() < np.exp(-(now - cost) / max(heat, 1e-9)):
            cost = now
            if cost < best_cost:
                best, best_cost = state.chosen.copy(), cost
        else:
            state.flip(flipped)
    result: NDArray[np.bool_] = best[members]
    return result


def _filled(sizes: NDArray[np.intp], wanted: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """Groups in random order until there are enough images, none that would exceed them by much."""
    chosen = np.zeros(len(sizes), np.bool_)
    count = 0
    for group in random.permutation(len(sizes)):
        if abs(count + sizes[group] - wanted) < abs(count - wanted):
            chosen[group] = True
            count += sizes[group]
    return chosen


class _Division:
    """Groups that are chosen for validation, and what they add up to."""

    def __init__(
        self,
        by_group: NDArray[np.float64],
        sizes: NDArray[np.intp],
        classes: int,
        wanted: int,
        chosen: NDArray[np.bool_],
    ) -> None:
        self._by_group, self._sizes, self._classes, self._wanted = by_group, sizes, classes, wanted
        self.chosen = chosen
        self._total = by_group.sum(0)
        self._in_val = by_group[chosen].sum(0)
        self._count = int(sizes[chosen].sum())
        self._divisible = (by_group[:, :classes] > 0).sum(0) > 1

    def flip(self, groups: Sequence[int] | NDArray[np.intp]) -> None:
        for group in groups:
            sign = -1 if self.chosen[group] else 1
            self.chosen[group] = not self.chosen[group]
            self._in_val = self._in_val + sign * self._by_group[group]
            self._count += sign * int(self._sizes[group])

    def cost(self) -> float:
        pixels, total = self._in_val[: self._classes], self._total[: self._classes]
        absent = ((pixels <= 0) | (pixels >= total)) & self._divisible
        share = self._wanted / max(1, int(self._sizes.sum()))
        present = self._total > 0
        uneven = np.abs(self._in_val[present] / self._total[present] - share).mean() if present.any() else 0.0
        empty = not 0 < self._count < self._sizes.sum()
        return float(
            _EMPTY * empty + _ABSENT * absent.sum() + _SIZE * abs(self._count - self._wanted) / self._wanted + uneven
        )


def evenness(pixels: NDArray[np.int64], validation: NDArray[np.bool_]) -> Evenness:
    """How alike two parts are; see `split_groups`."""
    total, inside = pixels.sum(0), pixels[validation].sum(0)
    present = total > 0
    share = validation.mean() if len(validation) else 0.0
    deviations = np.abs(inside[present] / total[present] - share)
    return Evenness(
        classes=int(present.sum()),
        absent_in_training=tuple(np.flatnonzero(present & (inside == total)).tolist()),
        absent_in_validation=tuple(np.flatnonzero(present & (inside == 0)).tolist()),
        largest_deviation=float(deviations.max()) if present.any() else 0.0,
    )


def draw_covering(pixels: NDArray[np.int64], count: int, seed: int) -> list[int]:
    """Indices of so many images that show every class, if there are such; sorted.

    Args:
        pixels: ``[N,C]`` of each class in each image.
        count: at most N.
        seed: of the draw.
    """
    order = np.random.default_rng(seed).permutation(len(pixels)).tolist()
    if count >= len(order):
        return sorted(order)
    bits = [sum(1 << column for column in np.flatnonzero(row).tolist()) for row in pixels]
    return sorted(covering(order, count, pixels.shape[1], lambda some: [bits[index] for index in some]))
