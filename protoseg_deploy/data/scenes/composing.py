"""One scene: what is where, in which light, seen through which lens."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.scenes import things
from protoseg_deploy.data.scenes.appearance import (
    BUILDING,
    CROP,
    GROUND,
    KINDS,
    ROAD,
    SEEN,
    TREE,
    VEHICLE,
    WATER,
)
from protoseg_deploy.data.scenes.canvas import SUPERSAMPLING, Canvas, box_blur, random_direction

IGNORE = 255
Sample = TypeVar("Sample", bound=np.generic)


@dataclass(frozen=True)
class Scene:
    """A picture, its mask, and which appearances were drawn."""

    image: NDArray[np.uint8]
    """``[h,w,3]`` RGB."""
    mask: NDArray[np.uint8]
    """``[h,w]`` class indices into `KINDS`; 255 where a pixel shows more than one class."""
    appearances: dict[int, list[float]]
    """Class index to the appearances drawn, 0..3; whole numbers are the modes of `Kind.modes`."""


class _Painter:
    """Draws one scene; holds what its steps share."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], *, seen_only: bool, complete: bool) -> None:
        self.rng = rng
        self.canvas = Canvas(*size, rng)
        self.seen_only, self.complete = seen_only, complete
        self.appearances: dict[int, list[float]] = {}
        # Familiar looks are the more frequent ones: x(1+x)/2 is below one half for 62 % of x.
        shares = [self.uniform(0, 1) for _ in KINDS]
        self.centres = [
            share * SEEN if seen_only else kind.last * share * (1 + share) / 2
            for kind, share in zip(KINDS, shares, strict=True)
        ]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self.rng.random())

    def somewhere(self, margin: float = 0.0) -> tuple[float, float]:
        return (
            self.uniform(margin, self.canvas.width - margin),
            self.uniform(margin, self.canvas.height - margin),
        )

    def happens(self, chance: float) -> bool:
        return bool(self.rng.random() < chance) or self.complete

    def appearance(self, class_id: int, spread: float) -> float:
        """An appearance near the scene's own for this class, recorded."""
        limit = SEEN if self.seen_only else KINDS[class_id].last
        value = min(max(self.centres[class_id] + self.uniform(-spread, spread), 0.0), limit)
        self.appearances.setdefault(class_id, []).append(value)
        return value

    def surfaces(self) -> None:
        canvas = self.canvas
        things.draw_ground(canvas, self.appearance(GROUND, 0.0))
        if self.happens(0.65):
            x, y = self.somewhere()
            things.draw_crop(canvas, x, y, self.uniform(50, 90), self.uniform(36, 64), self.appearance(CROP, 0.0))
        if self.happens(0.6):
            x, y = self.somewhere()
            stretch = self.uniform(1, 1.6) if self.rng.random() < 0.6 else self.uniform(4, 6)
            radius = self.uniform(17, 25) if stretch < 2 else self.uniform(9, 12)
            things.draw_water(canvas, x, y, radius, stretch, self.appearance(WATER, 0.0))
        for _ in range(int(self.rng.integers(2, 6))):
            x, y = self.somewhere()
            grey = self.uniform(90, 190)
            tint = np.asarray((grey, grey * self.uniform(0.85, 1.0), grey * self.uniform(0.7, 1.0)), np.float32)
            things.draw_clutter(canvas, x, y, self.uniform(1.2, 3.0), tint)

    def traffic(self) -> None:
        canvas = self.canvas
        roads = 1 if self.rng.random() < 0.7 else 2
        surface = self.appearance(ROAD, 0.0)
        for _ in range(roads):
            x, y = self.somewhere(25)
            road = things.Road(x, y, random_direction(self.rng), self.uniform(-0.003, 0.003), self.uniform(17, 22))
            things.draw_road(canvas, road, surface)
            travelled = self.uniform(-80, -55)
            while travelled < 75:
                side = 1 if self.rng.random() < 0.5 else -1
                x, y, heading = road.point(travelled, side * road.breadth * 0.24)
                heading = heading if side > 0 else type(heading)(-heading.x, -heading.y)
                length = self.uniform(11, 15)
                things.draw_vehicle(canvas, x, y, heading, length, self.appearance(VEHICLE, 3.0))
                travelled += length + self.uniform(5, 34)

    def buildings(self) -> None:
        wanted = int(self.rng.integers(1, 4)) if self.happens(0.8) else 0
        for _ in range(40):
            if not wanted:
                return
            x, y = self.somewhere(6)
            ridge = random_direction(self.rng)
            length, breadth = self.uniform(20, 34), self.uniform(15, 22)
            corners = [
                (x + ridge.x * along + ridge.left.x * across, y + ridge.y * along + ridge.left.y * across)
                for along in (-length / 2, 0.0, length / 2)
                for across in (-breadth / 2, 0.0, breadth / 2)
            ]
            if all(self.canvas.id_at(*corner) in (GROUND, CROP, None) for corner in corners):
                things.draw_building(self.canvas, x, y, ridge, length, breadth, self.appearance(BUILDING, 0.4))
                wanted -= 1

    def trees(self) -> None:
        for _ in range(int(self.rng.integers(2, 5)) if self.happens(0.9) else 0):
            grove_x, grove_y = self.somewhere()
            for _ in range(int(self.rng.integers(1, 5))):
                x, y = grove_x + self.uniform(-16, 16), grove_y + self.uniform(-16, 16)
                at = self.canvas.id_at(x, y)
                if at in (WATER, VEHICLE, BUILDING) or (at == ROAD and self.rng.random() < 0.6):
                    continue
                things.draw_tree(self.canvas, x, y, self.uniform(5, 9), self.appearance(TREE, 0.4))

    def light(self) -> None:
        """Slanting light, a cloud's shadow, the colour of the hour."""
        canvas = self.canvas
        patch = canvas.whole()
        slant = patch.along(random_direction(self.rng), canvas.width / 2, canvas.height / 2) / np.float32(canvas.width)
        brightness = np.float32(self.uniform(0.82, 1.12)) + slant * np.float32(self.uniform(0, 0.4))
        cloud = np.clip(canvas.noise(60) * 4 - np.float32(2.4), 0, 1) * np.float32(self.uniform(0, 0.4))
        tint = np.asarray([self.uniform(0.93, 1.07) for _ in range(3)], np.float32)
        canvas.color *= (brightness * (1 - cloud))[..., None] * tint

    def photograph(self) -> Scene:
        """Down to pixels, with blur, haze and sensor noise; pixels of more than one class become `IGNORE`."""
        # Python's sum keeps one order of additions; numpy's may not.
        color = np.asarray(sum(samples_of(self.canvas.color)) / np.float32(SUPERSAMPLING**2), np.float32)
        color = box_blur(color, self.uniform(0, 0.6))
        haze = np.float32(self.uniform(0, 0.18))
        color = color * (1 - haze) + haze * 200
        noise = self.rng.random(color.shape, np.float32) + self.rng.random(color.shape, np.float32) - 1
        color = color + noise * np.float32(self.uniform(3, 16))
        image = np.clip(np.floor(color + np.float32(0.5)), 0, 255).astype(np.uint8)
        first, *others = samples_of(self.canvas.ids)
        pure = np.logical_and.reduce([other == first for other in others])
        mask = np.where(pure, first, np.uint8(IGNORE))
        return Scene(image, mask, self.appearances)


def samples_of(fine: NDArray[Sample]) -> list[NDArray[Sample]]:
    """``[2h,2w,...]`` to the four ``[h,w,...]`` samples of each pixel."""
    offsets = range(SUPERSAMPLING)
    return [fine[row::SUPERSAMPLING, column::SUPERSAMPLING] for row in offsets for column in offsets]


def draw_scene(
    rng: np.random.Generator, size: tuple[int, int] = (96, 128), *, seen_only: bool = False, complete: bool = False
) -> Scene:
    """Draw one scene.

    Args:
        rng: decides everything; the same state gives the same scene.
        size: height and width in pixels.
        seen_only: keep to the modes that labelled images show.
        complete: draw something of every class (it may still be hidden behind something else).
    """
    painter = _Painter(rng, size, seen_only=seen_only, complete=complete)
    painter.surfaces()
    painter.traffic()
    painter.buildings()
    painter.trees()
    painter.light()
    return painter.photograph()
