"""Masks compared across files: each may be valid by itself, but not all together.

Palettes that number the same colours differently, foreground that is 255 in some masks and 1 in others, values that
only training or only validation masks have, masks of several kinds.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from protoseg_deploy.data.looking import Seen, SeenMask
from protoseg_deploy.data.value_maps import likely_changes, value_map_line
from protoseg_deploy.recipe import ClassTable, Color, Data

_NAMED = 5
_COLORS = 32


def palettes_that_differ(masks: Sequence[SeenMask]) -> tuple[list[str], list[str]]:
    """Palette masks in which a colour has another index than in most, or an index another colour.

    Palettes of grey, in which every index is its own colour, are like masks without one.

    Returns:
        What is certainly wrong, a colour with several indices; and what may be, an index with several colours.
    """
    palettes = [(mask, mask.palette) for mask in masks if mask.palette is not None and not _is_grey(mask.palette)]
    by_color: dict[Color, Counter[int]] = defaultdict(Counter)
    by_index: dict[int, Counter[Color]] = defaultdict(Counter)
    for _, palette in palettes:
        for index, color in palette.items():
            by_color[color][index] += 1
            by_index[index][color] += 1
    usual_index = {color: counts.most_common(1)[0][0] for color, counts in by_color.items()}
    usual_color = {index: counts.most_common(1)[0][0] for index, counts in by_index.items()}
    moved: dict[tuple[Color, int], list[SeenMask]] = defaultdict(list)
    repainted: dict[tuple[int, Color], list[SeenMask]] = defaultdict(list)
    for mask, palette in palettes:
        for index, color in palette.items():
            if usual_index[color] != index:
                moved[color, index].append(mask)
            elif usual_color[index] != color and len(by_color[color]) == 1:
                repainted[index, color].append(mask)
    faults = [
        f"the palettes of masks differ: the colour {color} is index {index} in {_named(some)}, but "
        f"{usual_index[color]} in {_masks(by_color[color][usual_index[color]])}"
        for (color, index), some in sorted(moved.items())
    ]
    doubts = [
        f"the palettes of masks differ: index {index} has the colour {color} in {_named(some)}, but "
        f"{usual_color[index]} in {_masks(by_index[index][usual_color[index]])}"
        for (index, color), some in sorted(repainted.items())
    ]
    return faults, [] if faults else doubts


def palette_colors(masks: Sequence[SeenMask]) -> str:
    """Colours of palette masks as a recipe lists them: ``[[0, 0, 0], [255, 0, 0]]``."""
    colors = sorted({color for mask in masks if mask.palette is not None for color in mask.palette.values()})
    more = f" and {len(colors) - _COLORS} more" if len(colors) > _COLORS else ""
    return f"{[list(color) for color in colors[:_COLORS]]}{more}"


def ignored_foreground(data: Data, classes: ClassTable, masks: Sequence[SeenMask]) -> str | None:
    """A warning where the ignored value stands in place of classes in some masks: 255 here and 1 there.

    Where masks show both, or ignored pixels are few, it is what it is called.
    """
    ignored = data.ignore_index
    with_it = [mask for mask in masks if ignored in mask.pixels]
    without_foreground = [mask for mask in with_it if not any(0 < value < len(classes) for value in mask.pixels)]
    plain = [mask for mask in masks if ignored not in mask.pixels and any(0 < v < len(classes) for v in mask.pixels)]
    both = len(with_it) - len(without_foreground)
    showing_0 = [mask for mask in without_foreground if 0 in mask.pixels]
    if not showing_0 or not plain or both * 10 > len(showing_0):
        return None
    line = value_map_line(data.value_map, {ignored: 1})
    mend = f"set {line}" if len(classes) == 2 else f"set {line}, or to the class that is meant"
    return (
        f"{_named(showing_0)} show {ignored}, which is ignored, where {_masks(len(plain))} show classes: if it is "
        f"foreground there, {mend}"
    )


def several_kinds(masks: Sequence[SeenMask]) -> str | None:
    """A warning where some masks have colours and others indices."""
    colors, indices = ([mask for mask in masks if mask.channels == channels] for channels in (3, 1))
    if not colors or not indices:
        return None
    few, kind = (colors, "three channels") if len(colors) <= len(indices) else (indices, "one channel")
    return (
        f"{_named(few)} of {len(masks)} in all have {kind}, unlike the others: three channels are read by data.colors, "
        "one as class indices; both have to mean the same"
    )


def strange_values(data: Data, classes: int, masks: Sequence[SeenMask]) -> list[str]:
    """Hints for values that are no class, over all masks: one line of the recipe that fixes them."""
    values = {value for mask in masks for value in mask.pixels}
    wrong = sorted(value for value in values if value >= classes and value != data.ignore_index)
    if not wrong:
        return []
    hints = []
    likely = likely_changes(values, classes, data.ignore_index)
    if likely is not None:
        hints.append(f"If the values of masks are the classes in their order: {value_map_line(data.value_map, likely)}")
    ignoring = value_map_line(data.value_map, dict.fromkeys(wrong, data.ignore_index))
    merging = value_map_line(data.value_map, {wrong[0]: classes - 1})
    hints.append(f"To ignore the values that are no class: {ignoring}; to merge one into another class: {merging}")
    return hints


def values_of_one_part(data: Data, classes: ClassTable, labeled: Sequence[Seen], val: Sequence[Seen]) -> str | None:
    """A warning where labelled and validation masks show as many classes but others: probably other values for one."""
    shown = [
        {value for seen in part if seen.mask is not None for value in seen.mask.pixels if value < len(classes)}
        for part in (labeled, val)
    ]
    only = [sorted(shown[0] - shown[1]), sorted(shown[1] - shown[0])]
    if not all(only):
        return None
    names = [", ".join(f"{index} ({classes.names[index]})" for index in some) for some in only]
    mend = ""
    if len(only[0]) == len(only[1]) == 1:
        mend = f"; if both mean the same: {value_map_line(data.value_map, {only[1][0]: only[0][0]})}"
    return f"only labelled masks show {names[0]}, only validation masks {names[1]}{mend}"


def _is_grey(palette: Mapping[int, Color]) -> bool:
    return all(color == (index, index, index) for index, color in palette.items())


def _masks(count: int) -> str:
    return "1 other mask" if count == 1 else f"{count} other masks"


def _named(masks: Sequence[SeenMask]) -> str:
    names = ", ".join(str(mask.path) for mask in masks[:_NAMED])
    more = f" and {len(masks) - _NAMED} more" if len(masks) > _NAMED else ""
    return f"{'1 mask' if len(masks) == 1 else f'{len(masks)} masks'} ({names}{more})"
