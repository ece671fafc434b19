"""Numbers as people read them."""

import math
from typing import Any


def number(value: Any) -> float | None:
    """A value of somebody else's JSON as a finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def percent(value: float | None, digits: int = 1) -> str:
    """``57.4``; ``–`` where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def points(value: float | None, digits: int = 1) -> str:
    """A difference with its sign: ``+1.2``, ``−0.4``, ``±0.0``; ``–`` where there is none."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{abs(value):.{digits}f}"
    return f"±{text}" if not float(text) else f"+{text}" if value > 0 else f"−{text}"


def count(value: float | None) -> str:
    """``1,882,315``."""
    return "–" if value is None else f"{value:,.0f}"


def size(value: float | None) -> str:
    """Bytes: ``7.7 MB``."""
    if value is None:
        return "–"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{value / factor:.1f} {unit}"
    return f"{value:.0f} bytes"


def duration(seconds: float | None) -> str:
    """``7 min 24 s``."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.0f} s"


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``23 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
