"""Which labelled images a run learns from, where it is not all of them."""

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.data.sample import Sample
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Data, class_table, mask_reading

_MOST_THREADS = 8
_READ_AT_ONCE = 64
_MOST_TRIALS = 50_000


def draw_labeled(data: Data, pool: Sequence[Sample], faults: list[str]) -> list[Sample]:
    """The labelled subset: same seed and files, same subset, on every platform and Python.

    Every sample of the sorted pool gets a random key and the smallest keys win. Unlike `random.sample`, of which Python
    promises no such thing, `random.random` gives the same numbers for a seed in every version; and a larger count with
    the same seed adds to the subset rather than drawing another one.

    With ``labeled_draw: covering`` the subset shows every class if any subset of its size does. The draw is the same as
    a random one if that shows every class.

    Args:
        data: how many, which seed, what masks mean.
        pool: sorted.
        faults: of the pool; a count larger than it is added here.

    Raises:
        UsageError: the JSON file of classes cannot be read.
    """
    if data.labeled_count is not None:
        count = data.labeled_count
    elif data.labeled_share is not None:
        count = max(1, round(data.labeled_share * len(pool)))
    else:
        return list(pool)
    if count > len(pool):
        faults.append(f"data.labeled_count: {count} images asked for, {len(pool)} labelled images found")
        return []
    numbers = random.Random(data.labeled_seed)  # noqa: S311 — reproducible on purpose
    keys = [numbers.random() for _ in pool]
    order = sorted(range(len(pool)), key=lambda index: keys[index])
    if data.labeled_draw == "covering" and count < len(pool) and not faults:  # masks may be missing
        classes = len(class_table(data))
        chosen = covering(order, count, classes, lambda some: _classes_shown([pool[index] for index in some], data))
    else:
        chosen = order[:count]
    return [pool[index] for index in sorted(chosen)]


def covering(
    order: Sequence[int], count: int, classes: int, shown: Callable[[Sequence[int]], Sequence[int]]
) -> list[int]:
    """The first of an order that show every class, as far as so many can.

    Those that show a class which nothing before them shows come first, then the others. Where these are already more
    than `count`, a set that shows every class is searched for; where there is none, the images that add most are taken.

    Args:
        order: indices, in random order.
        count: how many are wanted, fewer than there are.
        classes: how many classes there are.
        shown: the classes that images show, as bits of an integer each; asked for no more images than necessary.
    """
    bits: dict[int, int] = {}
    covered, first = 0, []
    for begin in range(0, len(order), _READ_AT_ONCE):
        some = order[begin : begin + _READ_AT_ONCE]
        bits |= zip(some, shown(some), strict=True)
        for index in some:
            if bits[index] & ~covered:
                covered |= bits[index]
                first.append(index)
        if covered == (1 << classes) - 1 and len(first) <= count:
            break
    if len(first) > count:
        first = _smallest_cover(bits, covered, count)
    taken = set(first)
    others = [index for index in order if index not in taken]
    return first + others[: count - len(first)]


def _smallest_cover(bits: dict[int, int], wanted: int, count: int) -> list[int]:
    """At most `count` of the images, with all `wanted` classes if such a set is found; else with as many as is easy."""
    first_with: dict[int, int] = {}
    for index, value in bits.items():
        first_with.setdefault(value, index)
    distinct = [value for value in first_with if not any(value != other and not value & ~other for other in first_with)]
    trials = 0

    def search(missing: int, left: int) -> list[int] | None:
        """Sets of classes that show all that are missing; a class that few images show decides first."""
        nonlocal trials
        trials += 1
        if not missing:
            return []
        if not left or trials > _MOST_TRIALS:
            return None
        rows: list[list[int]] = [
            [value for value in distinct if value >> number & 1]
            for number in range(missing.bit_length())
            if missing >> number & 1
        ]
        rarest: list[int] = min(rows, key=len)
        for value in sorted(rarest, key=lambda value: -(value & missing).bit_count()):
            found = search(missing & ~value, left - 1)
            if found is not None:
                return [value, *found]
        return None

    exact = search(wanted, count)
    if exact is not None:
        return [first_with[value] for value in exact]
    chosen: list[int] = []
    while wanted and len(chosen) < count:
        best = max(distinct, key=lambda value: (value & wanted).bit_count())
        chosen.append(first_with[best])
        wanted &= ~best
    return chosen


def _classes_shown(samples: Sequence[Sample], data: Data) -> list[int]:
    """Of each sample, the classes its mask shows as bits; one that cannot be read, which a check says, shows none."""
    classes, reading = len(class_table(data)), mask_reading(data)

    def bits(sample: Sample) -> int:
        assert sample.mask is not None
        try:
            values = np.flatnonzero(np.bincount(read_mask(sample.mask, reading).ravel(), minlength=256))
        except DataError:
            return 0
        return sum(1 << value for value in values.tolist() if value < classes)

    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(bits, samples))
