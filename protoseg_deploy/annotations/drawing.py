"""Shapes to an index mask, in a stated order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.annotations.class_plan import IGNORE, ClassPlan
from protoseg_deploy.annotations.filling import Covered, covered, distance_outside
from protoseg_deploy.annotations.shapes import AnnotatedImage, BadRecordError, Notes, Shape
from protoseg_deploy.annotations.source import Order

_TOLERATED_PX = 1.0
"""Tools let a hand slip over the border by so much."""


@dataclass(frozen=True)
class Drawn:
    """An index mask."""

    mask: NDArray[np.uint8]
    """``[H,W]``"""
    has_overlaps: bool
    """Some pixel was drawn with two classes, and the order decided."""


def draw_mask(annotated: AnnotatedImage, plan: ClassPlan, order: Order, priority: Sequence[str], notes: Notes) -> Drawn:
    """Draw the shapes of an image, those that come later over those before them.

    First come crowds. Then comes what the priority does not name, and then what it names, in its order; ``ignore``
    stands for crowds and ignored labels. Within each, shapes go from the lowest to the highest depth and as
    the file has them (``file``), or from the largest area to the smallest (``area``).

    Args:
        annotated: shapes, with their size.
        plan: which label is which index.
        order: of the format.
        priority: labels, and perhaps ``ignore``.
        notes: shapes that cannot be drawn, or not as they are, are added.
    """
    mask = np.full(annotated.size, plan.unlabeled, dtype=np.uint8)
    ranks = {label: number for number, label in enumerate(priority, start=1)}
    drawable: list[tuple[tuple[float, ...], int, Covered]] = []
    for position, shape in enumerate(annotated.shapes):
        with notes.record(shape.record):
            index, pixels = _covered(shape, annotated.size, plan, notes)
            name = "ignore" if index == IGNORE else shape.label
            rank = ranks.get(name, -1 if shape.is_crowd else 0)
            inner = (shape.depth, position) if order == "file" else (-int(pixels.pixels.sum()), position)
            drawable.append(((rank, *inner), index, pixels))
    has_overlaps = False
    drawn = np.zeros(annotated.size, dtype=np.bool_)
    for _, index, region in sorted(drawable, key=lambda one: one[0]):
        part, before = mask[region.place], drawn[region.place]
        has_overlaps = has_overlaps or bool((before & region.pixels & (part != index)).any())
        part[region.pixels] = index
        before |= region.pixels
    return Drawn(mask, has_overlaps)


def _covered(shape: Shape, size: tuple[int, int], plan: ClassPlan, notes: Notes) -> tuple[int, Covered]:
    index = plan.index(shape.label)
    if shape.is_crowd:
        index = IGNORE
    if index is None:
        raise BadRecordError(f"unknown class {shape.label!r}")
    outside = distance_outside(shape.geometry, size)
    if math.isinf(outside):
        raise BadRecordError("lies outside the image")
    pixels = covered(shape.geometry, size)
    if outside > _TOLERATED_PX:
        notes.add("changed", shape.record, f"reaches {outside:.1f} pixels over the border of the image: cut there")
    if not pixels.pixels.any():
        notes.add("changed", shape.record, "covers no pixel: too thin or too small")
    return index, pixels
