"""Fewer corners, within a stated distance; and outlines that hold their holes."""

from collections.abc import Sequence

import numpy as np

from protoseg_deploy.annotations.shapes import Ring


def simplify(ring: Ring, tolerance: float) -> Ring:
    """A ring with fewer corners (Ramer 1972; Douglas and Peucker, 1973).

    No corner that is left out lies farther than the tolerance from the side that replaces it. So whatever lies farther
    than the tolerance from the outline is inside after as before, even where the new outline crosses itself.

    Args:
        ring: ``[N,2]``
        tolerance: in pixels; 0 leaves out corners on straight lines alone.

    Returns:
        Corners of the ring in their order, at least three; the ring itself where fewer would be left.
    """
    if len(ring) <= 3:
        return ring
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=np.bool_)
    keep[[0, far, len(ring)]] = True
    rest = [(0, far), (far, len(ring))]
    while rest:
        first, last = rest.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(np.argmax(distances))
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            rest += [(first, middle), (middle, last)]
    chosen = closed[:-1][keep[:-1]]
    return chosen if len(chosen) >= 3 else ring


def join_holes(outer: Ring, holes: Sequence[Ring]) -> Ring:
    """One ring for a region with holes: cuts of no width lead to each of them and back.

    Filling it by parity gives the region, for formats whose polygons have no holes.
    """
    joined = outer
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        distances = ((joined[:, None] - hole[None]) ** 2).sum(axis=2)
        at, to = (int(place) for place in np.unravel_index(int(np.argmin(distances)), distances.shape))
        loop = np.concatenate([hole[to:], hole[: to + 1]])
        joined = np.concatenate([joined[: at + 1], loop, joined[at:]])
    return joined


def _distances(points: Ring, start: Ring, end: Ring) -> Ring:
    """From a line between two points, not its continuation."""
    line = end - start
    length = float((line**2).sum())
    share = np.clip((points - start) @ line / length, 0, 1) if length else np.zeros(len(points))
    distances: Ring = np.hypot(*(points - start - share[:, None] * line).T)
    return distances
