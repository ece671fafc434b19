"""What the demo's classes look like: each has four modes on a line, and labelled scenes stay at one end of it.

An appearance is a number from 0 to 3; whole numbers are modes, everything between is a blend of two neighbours. The
unlabelled pool covers the line without gaps, familiar looks more often than others, so that a network can carry a class
from the modes it was shown to those it was not. Colours of the unseen modes lean towards those of *other* classes'
seen modes: colour alone misleads, shape, texture and neighbourhood do not.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

GROUND, ROAD, BUILDING, TREE, WATER, VEHICLE, CROP = range(7)
SEEN = 1.5
"""Labelled scenes draw appearances from 0 to here: modes 0 and 1 and half of the way to 2."""


class Mode(NamedTuple):
    """One look of a class: its name and two RGB colours (main; detail such as row gaps, markings, highlights)."""

    name: str
    main: tuple[int, int, int]
    detail: tuple[int, int, int]


@dataclass(frozen=True)
class Kind:
    """A class: name, RGB colour in masks shown to people, modes in order of kinship."""

    name: str
    color: tuple[int, int, int]
    modes: tuple[Mode, ...]

    @property
    def last(self) -> float:
        """The appearance at the far end of the line."""
        return float(len(self.modes) - 1)

    def look(self, appearance: float) -> tuple[Array, Array]:
        """Main and detail colour, ``[3]`` float32 in 0..255, of an appearance in 0..`last`."""
        lower = min(int(appearance), len(self.modes) - 2)
        share = np.float32(appearance - lower)
        one, other = self.modes[lower], self.modes[lower + 1]
        main, detail = (
            np.asarray(a, np.float32) * (1 - share) + np.asarray(b, np.float32) * share
            for a, b in ((one.main, other.main), (one.detail, other.detail))
        )
        return main, detail


KINDS: tuple[Kind, ...] = (
    Kind(
        "ground",
        (200, 196, 160),
        (
            Mode("lawn", (98, 138, 72), (122, 162, 88)),
            Mode("dry meadow", (164, 156, 92), (188, 178, 112)),
            Mode("bare soil", (168, 142, 108), (186, 162, 128)),
            Mode("frost", (198, 200, 192), (216, 220, 214)),
        ),
    ),
    Kind(
        "road",
        (96, 96, 104),
        (
            Mode("asphalt", (80, 82, 88), (216, 214, 204)),
            Mode("concrete", (154, 152, 148), (206, 204, 200)),
            Mode("brick paving", (152, 116, 106), (196, 160, 146)),
            Mode("dirt track", (184, 166, 140), (146, 126, 100)),
        ),
    ),
    Kind(
        "building",
        (196, 72, 60),
        (
            Mode("red tiles", (178, 78, 60), (214, 122, 98)),
            Mode("brown shingles", (128, 96, 76), (166, 132, 106)),
            Mode("slate", (84, 94, 112), (132, 142, 158)),
            Mode("copper green", (104, 142, 136), (152, 184, 176)),
        ),
    ),
    Kind(
        "tree",
        (44, 120, 52),
        (
            Mode("green crown", (50, 92, 46), (104, 146, 74)),
            Mode("autumn", (172, 106, 40), (220, 164, 70)),
            Mode("blossom", (190, 134, 140), (232, 192, 192)),
            Mode("blue spruce", (62, 100, 112), (140, 176, 182)),
        ),
    ),
    Kind(
        "water",
        (60, 132, 200),
        (
            Mode("blue lake", (56, 108, 158), (104, 156, 194)),
            Mode("algae green", (68, 124, 104), (118, 166, 142)),
            Mode("muddy", (128, 108, 80), (164, 146, 116)),
            Mode("ice", (152, 176, 192), (200, 216, 226)),
        ),
    ),
    Kind(
        "vehicle",
        (236, 200, 40),
        (
            Mode("white", (232, 232, 228), (250, 250, 248)),
            Mode("red", (192, 44, 40), (230, 96, 88)),
            Mode("yellow", (224, 178, 44), (250, 218, 110)),
            Mode("blue", (40, 78, 160), (96, 130, 204)),
        ),
    ),
    Kind(
        "crop",
        (160, 96, 176),
        (
            Mode("green rows", (72, 132, 54), (134, 104, 74)),
            Mode("wheat", (210, 182, 96), (166, 132, 66)),
            Mode("lavender", (138, 106, 178), (128, 128, 92)),
            Mode("ploughed", (124, 92, 68), (88, 64, 50)),
        ),
    ),
)
