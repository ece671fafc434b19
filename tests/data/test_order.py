"""The order of an epoch: a permutation for every pool, as random as a shuffled one in what training can notice."""

from collections import Counter

import numpy as np
import pytest

from protoseg_deploy.data.order import image_at


def epoch_of(pool: int, epoch: int, seed: int = 0, role: int = 1) -> list[int]:
    return [image_at(pool, epoch * pool + place, seed, role) for place in range(pool)]


def chi_square(counts: np.ndarray) -> float:
    """Of equally likely cells, in standard deviations from what chance gives."""
    expected = counts.sum() / counts.size
    freedom = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("pool", [1, 2, 3, 4, 5, 7, 15, 16, 17, 64, 65, 255, 1000, 4097])
def test_every_epoch_shows_every_image_once(pool):
    for epoch in range(3):
        assert sorted(epoch_of(pool, epoch)) == list(range(pool))


def test_epochs_seeds_and_roles_have_their_own_orders():
    orders = {
        tuple(epoch_of(100, epoch, seed, role)) for epoch in range(4) for seed in (0, 1, 2**62) for role in (1, 2)
    }
    assert len(orders) == 24


@pytest.mark.parametrize("pool", [3, 4])
def test_every_order_of_a_tiny_pool_is_equally_likely(pool):
    counts = Counter(tuple(epoch_of(pool, epoch)) for epoch in range(4000))
    orders = np.array([*counts.values()])
    assert len(orders) == {3: 6, 4: 24}[pool]
    assert chi_square(orders) < 5


@pytest.mark.parametrize("pool", [5, 17, 46, 100])
def test_an_image_comes_anywhere_in_an_epoch(pool):
    orders = np.array([epoch_of(pool, epoch) for epoch in range(20 * pool)])
    counts = np.stack([np.bincount(orders[:, position], minlength=pool) for position in range(pool)])
    assert chi_square(counts) < 5
    # A pair of neighbours is as likely as any other pair, across the ends of epochs too.
    pairs = np.bincount((orders[:, 1:] * pool + orders[:, :-1]).ravel(), minlength=pool * pool).reshape(pool, pool)
    assert not np.diagonal(pairs).any()
    assert chi_square(pairs[~np.eye(pool, dtype=bool)]) < 5


def test_neighbours_are_unrelated_in_a_large_pool():
    pool, drawn = 1_000_003, 20_000
    order = np.array([image_at(pool, position, 9, 2) for position in range(drawn)], dtype=float)
    assert len(set(order)) == drawn
    noise = 1 / np.sqrt(drawn)
    for lag in (1, 2, 16, 1000):
        assert abs(np.corrcoef(order[:-lag], order[lag:])[0, 1]) < 4 * noise
    following = [image_at(pool, position + pool, 9, 2) for position in range(drawn)]
    assert abs(np.corrcoef(order, following)[0, 1]) < 4 * noise
    assert abs(np.corrcoef(order, np.arange(drawn))[0, 1]) < 4 * noise
    assert chi_square(np.histogram(order, bins=50, range=(0, pool))[0]) < 5
    low_bits = np.bincount(order.astype(int) % 16, minlength=16)
    assert chi_square(low_bits) < 5


def test_the_order_is_the_same_everywhere():
    # Written down once: a change of these numbers changes every run there is.
    assert [image_at(1000, position, seed=3, role=2) for position in range(12, 18)] == [963, 147, 748, 79, 934, 414]
