"""How each class of the demo is drawn.

Shape and texture belong to the class, colour to the mode: crops have rows, roofs a ridge and a shadow, crowns lumps,
roads parallel edges, water ripples along a smooth shore. Every function takes an appearance (0..3).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data.scenes.appearance import BUILDING, CROP, GROUND, KINDS, ROAD, TREE, VEHICLE, WATER, Array
from protoseg_deploy.data.scenes.canvas import Canvas, Direction, Patch, random_direction

SHADOW = 0.55


def _mix(one: Array, other: Array, share: Array | float) -> Array:
    """``[3]`` colours blended by a number or an ``[h,w]`` map."""
    amount: Array = np.asarray(share, np.float32)[..., None]
    mixed: Array = one + (other - one) * amount
    return mixed


def _wave(position: Array, period: float) -> Array:
    """Triangle wave in 0..1."""
    phase = position / np.float32(period)
    wave: Array = np.abs((phase - np.floor(phase)) * 2 - 1)
    return wave


def draw_ground(canvas: Canvas, appearance: float) -> None:
    """The whole picture: patchy, with fine tufts."""
    main, detail = KINDS[GROUND].look(appearance)
    tufts = canvas.noise(14) * np.float32(0.6) + canvas.noise(2.2) * np.float32(0.7) - np.float32(0.15)
    canvas.color[:] = _mix(main, detail, tufts)
    canvas.ids[:] = GROUND


def draw_clutter(canvas: Canvas, x: float, y: float, radius: float, tint: Array) -> None:
    """A boulder or a bale: part of the ground, whatever it is."""
    patch = canvas.around(x, y, radius + 2)
    dx, dy = patch.x - np.float32(x), patch.y - np.float32(y)
    cover = dx * dx + dy * dy * np.float32(1.5) < radius * radius
    patch.shade((dx - 1) * (dx - 1) + (dy - 1) * (dy - 1) * np.float32(1.5) < radius * radius, SHADOW)
    patch.paint(cover & (patch.ids == GROUND), _mix(tint, tint * np.float32(0.7), np.clip((dx + dy) / radius, 0, 1)))


def draw_crop(canvas: Canvas, x: float, y: float, length: float, breadth: float, appearance: float) -> None:
    """A rectangular field of parallel rows."""
    main, detail = KINDS[CROP].look(appearance)
    rows = random_direction(canvas.rng)
    patch = canvas.whole()
    along, across = patch.along(rows, x, y), patch.along(rows.left, x, y)
    cover = (np.abs(along) < length / 2) & (np.abs(across) < breadth / 2)
    # Lavender and ploughland come in clumps along the row.
    clumps = _wave(along, 4.5) * np.float32(0.35 * min(max(appearance - 1, 0), 1))
    wave = np.clip(_wave(across, 4.6) * np.float32(1.7) - np.float32(0.35) + clumps, 0, 1)
    patch.paint(cover, _mix(main, detail, wave) + (canvas.noise(3)[..., None] - np.float32(0.5)) * 22, CROP)


def draw_water(canvas: Canvas, x: float, y: float, radius: float, stretch: float, appearance: float) -> None:
    """A pond, or a river if stretched: smooth, rippled, with a bright shore."""
    main, detail = KINDS[WATER].look(appearance)
    flow = random_direction(canvas.rng)
    patch = canvas.whole()
    along, across = patch.along(flow, x, y) / np.float32(stretch), patch.along(flow.left, x, y)
    wobble = (canvas.noise(26) - np.float32(0.5)) * np.float32(radius * 0.9)
    depth = np.float32(radius) + wobble - np.sqrt(along * along + across * across)
    ripples = np.clip(_wave(patch.along(flow) + canvas.noise(9) * 8, 11) * 2 - np.float32(1.15), 0, 1)
    shore = np.clip(1 - depth / 5, 0, 1) * np.float32(0.7)
    patch.paint(depth > -1.5, _mix(main, detail, 0.8) * np.float32(1.12))
    patch.paint(depth > 0, _mix(main, detail, np.clip(ripples * np.float32(0.6) + shore, 0, 1)), WATER)


@dataclass(frozen=True)
class Road:
    """A band of constant breadth along a parabola; `bend` is half its curvature in 1/pixel."""

    x: float
    y: float
    heading: Direction
    bend: float
    breadth: float

    def point(self, travelled: float, offset: float) -> tuple[float, float, Direction]:
        """Place and heading, `travelled` pixels along the tangent at the origin and `offset` to the left."""
        slope = 2 * self.bend * travelled
        norm = float(np.sqrt(1 + slope * slope))
        left, lateral = self.heading.left, self.bend * travelled * travelled
        heading = Direction((self.heading.x + slope * left.x) / norm, (self.heading.y + slope * left.y) / norm)
        x = self.x + travelled * self.heading.x + lateral * left.x + offset * heading.left.x
        y = self.y + travelled * self.heading.y + lateral * left.y + offset * heading.left.y
        return x, y, heading


def draw_road(canvas: Canvas, road: Road, appearance: float) -> None:
    """A road with bright or worn edges; markings fade into wheel tracks along the line of modes."""
    main, detail = KINDS[ROAD].look(appearance)
    patch = canvas.whole()
    along, across = patch.along(road.heading, road.x, road.y), patch.along(road.heading.left, road.x, road.y)
    slope = 2 * np.float32(road.bend) * along
    off = np.abs(across - np.float32(road.bend) * along * along) / np.sqrt(1 + slope * slope)
    half = road.breadth / 2
    surface = main + (canvas.grain()[..., None] - np.float32(0.5)) * 26
    patch.paint(off < half, surface, ROAD)
    edge = (off < half - 0.8) & (off > half - 1.9)
    patch.paint(edge, _mix(main, np.asarray((222, 220, 212), np.float32), 0.6))
    if appearance < 2:
        patch.paint((off < 0.7) & (_wave(along, 9) > 0.45), _mix(main, detail, 0.9))
    else:
        patch.paint(np.abs(off - np.float32(half * 0.5)) < 1.0, _mix(main, detail, 0.6))


def draw_vehicle(canvas: Canvas, x: float, y: float, heading: Direction, length: float, appearance: float) -> None:
    """A car or van seen from above: body, dark windows, lighter roof."""
    main, detail = KINDS[VEHICLE].look(appearance)
    breadth = 4.2 + length * 0.24
    patch = canvas.around(x, y, length * 0.75 + 2)
    along, across = patch.along(heading, x, y), np.abs(patch.along(heading.left, x, y))
    below = patch.along(heading, x + 1.2, y + 1.4)
    below_across = np.abs(patch.along(heading.left, x + 1.2, y + 1.4))
    patch.shade((np.abs(below) < length / 2) & (below_across < breadth / 2), SHADOW)
    corner = np.abs(along) * 2 / np.float32(length) + across * 2 / np.float32(breadth)
    patch.paint((np.abs(along) < length / 2) & (across < breadth / 2) & (corner < 1.75), main, VEHICLE)
    glass = np.asarray((38, 44, 54), np.float32)
    inside = across < breadth / 2 - 0.8
    patch.paint(inside & (along > length * 0.08) & (along < length * 0.27), glass)
    patch.paint(inside & (along < -length * 0.27) & (along > -length * 0.40), glass)
    patch.paint(inside & (along > -length * 0.25) & (along < length * 0.06), detail)


def draw_building(
    canvas: Canvas, x: float, y: float, ridge: Direction, length: float, breadth: float, appearance: float
) -> None:
    """A gabled roof, one side lit and courses of tiles across, with a shadow on the ground and a chimney."""
    main, detail = KINDS[BUILDING].look(appearance)
    patch = canvas.around(x, y, length * 0.75 + 8)
    shadow = np.zeros(patch.ids.shape, np.bool_)
    for step in range(1, 7):
        shadow |= _in_box(patch, x + step * 0.9, y + step * 0.9, ridge, length, breadth)
    patch.shade(shadow, SHADOW)
    across = patch.along(ridge.left, x, y)
    lit = np.where(across * np.float32(ridge.left.x + ridge.left.y) < 0, np.float32(1.12), np.float32(0.74))
    courses = np.clip(_wave(across, 3.2) * 2 - np.float32(0.9), 0, 1)
    roof = _mix(main * np.float32(0.85), detail, courses * np.float32(0.8)) * lit[..., None]
    cover = _in_box(patch, x, y, ridge, length, breadth)
    patch.paint(cover, roof, BUILDING)
    patch.paint(cover & (np.abs(across) < 0.7), detail)
    patch.paint(_in_box(patch, x + ridge.x * length / 4, y + ridge.y * length / 4, ridge, 3, 3), main * np.float32(0.5))


def _in_box(patch: Patch, x: float, y: float, heading: Direction, length: float, breadth: float) -> NDArray[np.bool_]:
    along, across = np.abs(patch.along(heading, x, y)), np.abs(patch.along(heading.left, x, y))
    return np.logical_and(along < length / 2, across < breadth / 2)


def draw_tree(canvas: Canvas, x: float, y: float, radius: float, appearance: float) -> None:
    """A crown of lumps, bright towards the light, over its shadow; conifers have points instead of lumps."""
    main, detail = KINDS[TREE].look(appearance)
    rng = canvas.rng
    patch = canvas.around(x, y, radius * 2)
    lumps = [(random_direction(rng), 0.35 + 0.3 * rng.random(), 0.45 + 0.2 * rng.random()) for _ in range(7)]
    crown = np.zeros(patch.ids.shape, np.bool_)
    shadow = np.zeros(patch.ids.shape, np.bool_)
    light = np.zeros(patch.ids.shape, np.float32)
    for direction, away, size in lumps:
        lump_x, lump_y, lump = x + direction.x * away * radius, y + direction.y * away * radius, size * radius
        dx, dy = patch.x - np.float32(lump_x), patch.y - np.float32(lump_y)
        inside = dx * dx + dy * dy < lump * lump
        crown |= inside
        height = np.clip(np.float32(0.45) - (dx + dy) / np.float32(2.4 * lump), 0, 1)
        light = np.where(inside, height, light)
        sx, sy = dx - np.float32(radius * 0.45), dy - np.float32(radius * 0.45)
        shadow |= sx * sx + sy * sy < lump * lump
    patch.shade(shadow, SHADOW)
    speckle = rng.random(patch.ids.shape, np.float32) - np.float32(0.5)
    patch.paint(crown, _mix(main * np.float32(0.85), detail, np.clip(light + speckle, 0, 1)), TREE)
