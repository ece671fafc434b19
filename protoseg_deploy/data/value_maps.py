"""Lines of ``data.value_map`` to paste, for masks whose values are not the classes of a recipe."""

from collections.abc import Iterable, Mapping


def value_map_line(existing: Mapping[int, int], changes: Mapping[int, int]) -> str:
    """``data.value_map: {255: 1}``: a map that does what there is and then `changes`.

    Args:
        existing: the recipe's, from stored values.
        changes: from values as they are after it.
    """
    merged = {stored: changes.get(value, value) for stored, value in existing.items()}
    merged |= {value: new for value, new in changes.items() if value not in existing}
    inside = ", ".join(f"{stored}: {value}" for stored, value in sorted(merged.items()) if stored != value)
    return f"data.value_map: {{{inside}}}"


def likely_changes(values: Iterable[int], classes: int, ignore_index: int) -> dict[int, int] | None:
    """What the values of all masks probably mean, if they are as many as there are classes: the first is class 0, …

    So it is with 1, 2, 3 in place of 0, 1, 2; with 0, 127, 255 or 0, 85, 170, 255; and with 0 and 255.

    Returns:
        The values that change; None where there are fewer or more values, or they are the classes.
    """
    found = sorted(set(values))
    if len(found) != classes and ignore_index in found:
        found.remove(ignore_index)
    changes = {value: index for index, value in enumerate(found) if value != index}
    return changes if len(found) == classes and changes else None


def renumbering(left_out: Iterable[int], classes: int) -> dict[int, int]:
    """Where classes go when some are left out of ``data.classes``: ``{2: 1}`` where class 1 is."""
    absent = set(left_out)
    kept = [index for index in range(classes) if index not in absent]
    return {old: new for new, old in enumerate(kept) if old != new}
