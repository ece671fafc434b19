"""What random numbers are drawn for: every purpose has seeds of its own, so that none affects another."""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """The first part of the key of a seed; a number is never used again for something else."""

    LABELED_VIEW = 1
    UNLABELED_VIEW = 2
    ORDER = 3
    """In which order images come."""
    REPLACEMENT = 4
    """Which image takes the place of an unreadable one."""
    CLASS_AWARE = 5
    COPY_PASTE = 6
    PLACING_VIEW = 7
    """Views of the labelled images in which prototypes are placed."""
    PLACING_VIEW_OF_CLASS = 8
    COPY_PASTE_VIEW = 9
    CUTMIX = 11
    LABELED_POSITIONS = 12
    UNLABELED_POSITIONS = 13
    DROPPED_CHANNELS = 14
    HALF_OF_IMAGES = 15
    REGIONS = 16
    CLUSTERS = 21


def derived_seed(seed: int, purpose: Purpose, *key: int) -> int:
    """A 63-bit seed for one purpose, independent of those of other purposes and keys."""
    state = np.random.SeedSequence((seed, purpose, *key)).generate_state(1, np.uint64)
    return int(state[0] >> 1)
