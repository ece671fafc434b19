"""In which order a pool of images is passed over: a new random order each epoch, without holding one in memory.

An epoch's order is a keyed pseudo-random permutation, evaluated at single positions, so that a process that needs
sixteen images of a million computes sixteen numbers. It is a balanced Feistel network (Luby and Rackoff, "How to
construct pseudorandom permutations from pseudorandom functions", SIAM Journal on Computing 1988) over the smallest
power of two with an even exponent that holds the pool. What falls outside the pool is put through it again until it
falls inside, which leaves a permutation of the pool ("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite
domains", CT-RSA 2002). All of it is integer arithmetic: the order is the same on every platform.
"""

from functools import lru_cache

import numpy as np

from protoseg_deploy.seeds import Purpose

_ROUNDS = 12
"""Three or four are enough for large domains; halves of one or two bits need more to be mixed well."""
_MASK = 2**64 - 1


def image_at(pool: int, position: int, seed: int, role: int) -> int:
    """The index at one position of a pool passed over again and again, each time in a new random order.

    Args:
        pool: number of images, at least 1.
        position: images drawn before this one.
        seed: of the run.
        role: tells pools of one run apart.
    """
    epoch, index = divmod(position, pool)
    half_bits = max(1, ((pool - 1).bit_length() + 1) // 2)
    keys = _round_keys(seed, role, epoch)
    index = _permuted(index, half_bits, keys)
    while index >= pool:
        index = _permuted(index, half_bits, keys)
    return index


def _permuted(index: int, half_bits: int, keys: tuple[int, ...]) -> int:
    """A permutation of the numbers below ``4 ** half_bits``."""
    left, right = index >> half_bits, index & ((1 << half_bits) - 1)
    for key in keys:
        left, right = right, left ^ (_mixed(right + key) >> (64 - half_bits))
    return left << half_bits | right


def _mixed(value: int) -> int:
    """64 bits of which each depends on all of `value` (SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    value &= _MASK
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


@lru_cache(maxsize=8)
def _round_keys(seed: int, role: int, epoch: int) -> tuple[int, ...]:
    """Kept for the steps of the same epoch."""
    return tuple(np.random.SeedSequence((seed, Purpose.ORDER, role, epoch)).generate_state(_ROUNDS, np.uint64).tolist())
