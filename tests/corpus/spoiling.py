"""Ways to damage a file that is whole: cut it, flip bits, put values of every kind in the place of others."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

NASTY: dict[str, Any] = {
    "null": None,
    "true": True,
    "minus-one": -1,
    "zero": 0,
    "huge": 10**30,
    "fraction": 0.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "empty-text": "",
    "text": "word",
    "nul": "a\0b",
    "markup": "[/red]",
    "surrogate": "\ud800",
    "long": "x" * 5000,
    "up": "../../etc",
    "list": [],
    "nested": [[[[]]]],
    "map": {},
    "odd-map": {"": {"a": [None]}},
}
"""Values of all kinds that JSON and YAML know, by name."""


def cuts(size: int, count: int) -> list[int]:
    """Lengths to cut a file to, spread from nothing to all but its last bytes."""
    shares = np.linspace(0, 1, count, endpoint=False)
    return sorted({int(share * size) for share in shares} | {max(0, size - 9)})


def flipped(content: bytes, seed: int, bits: int = 1) -> bytes:
    """The content with some bits flipped."""
    random = np.random.default_rng(seed)
    array = bytearray(content)
    for place in random.integers(0, len(array), bits):
        array[place] ^= 1 << int(random.integers(0, 8))
    return bytes(array)


Key = tuple[str | int, ...]


def keys(tree: Any, prefix: Key = ()) -> Iterator[Key]:
    """The way to every value of a tree of maps and lists, of lists only to the first."""
    if prefix:
        yield prefix
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from keys(value, (*prefix, name))
    elif isinstance(tree, list) and tree:
        yield from keys(tree[0], (*prefix, 0))


def replaced(tree: Any, key: Key, value: Any) -> Any:
    """A copy of a tree with one value replaced."""
    changed = copy.deepcopy(tree)
    _parent(changed, key)[key[-1]] = value
    return changed


def without(tree: Any, key: Key) -> Any:
    """A copy of a tree with one value left out."""
    changed = copy.deepcopy(tree)
    del _parent(changed, key)[key[-1]]
    return changed


def _parent(tree: Any, key: Key) -> Any:
    for part in key[:-1]:
        tree = tree[part]
    return tree


def one_each(tree: Any, seed: int, count: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Spoilt copies of a tree, each with another place and another value: a name, and a function that makes it.

    Every place gets its turn before one gets a second, every value, too; which meet is drawn by `seed`.
    """
    random = np.random.default_rng(seed)
    places = list(keys(tree))
    values = list(NASTY)
    order = [place for _ in range(count // len(places) + 1) for place in random.permutation(len(places))]
    kinds = [kind for _ in range(count // len(values) + 1) for kind in random.permutation(len(values))]
    for place, kind in list(zip(order, kinds, strict=False))[:count]:
        key, name = places[place], values[kind]
        yield f"{'.'.join(map(str, key))}={name}", lambda key=key, name=name: replaced(tree, key, NASTY[name])
