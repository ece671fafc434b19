"""Which label becomes which index."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from protoseg_deploy.annotations.shapes import DeclaredClass
from protoseg_deploy.annotations.source import Source
from protoseg_deploy.documents import first_fault
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.recipe import Color
from protoseg_deploy.recipe.types import ClassNames

IGNORE = 255
"""Index of pixels that are no class."""

IGNORED_LABELS = frozenset(
    {"ignore", "ignored", "__ignore__", "_ignore_", "ignore_region", "ignore region", "dontcare", "don't care"}
    | {"dont care", "void", "unlabeled", "unlabelled"}
)
"""Labels that become 255 in every format, upper or lower case."""

_PLACEHOLDERS = frozenset({"__ignore__", "_ignore_"})
"""Of these, which LabelMe's lists of labels begin with, no class is ever meant."""

BACKGROUND_LABELS = frozenset({"background", "_background_", "__background__"})
"""Labels of what no shape covers, upper or lower case."""

_MOST_CLASSES = 255


@dataclass(frozen=True)
class ClassPlan:
    """Names in index order, and what becomes of the other labels."""

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None
    """None unless the source has a different one for each."""
    ignored: frozenset[str]
    unlabeled: int
    """Index of pixels that no shape covers."""

    def index(self, label: str) -> int | None:
        """Of a label; None where it is unknown."""
        if label in self.names:
            return self.names.index(label)
        return IGNORE if _is_ignored(label, self.ignored) else None


def plan_classes(
    source: Source,
    found: Iterable[str],
    *,
    given: Sequence[DeclaredClass] | None = None,
    ignored: Iterable[str] = (),
    unlabeled: str | None = None,
) -> ClassPlan:
    """Decide on the classes of a conversion.

    Args:
        source: what it declares counts unless classes are given.
        found: labels that occur, where the source declares none.
        given: classes in index order; other labels are unknown then.
        ignored: labels that become 255, beside those that always do.
        unlabeled: what pixels without a shape are: the name of a class, or ``ignore``; of a source, where absent.

    Raises:
        UsageError: more classes than a mask can hold, or names that cannot be used.
        DataError: there is no class at all.
    """
    ignored = frozenset(ignored)
    skipped = ignored | source.ignored
    declared = given or source.classes
    if declared is None:
        labels = sorted(set(found), key=lambda name: (name.casefold() not in BACKGROUND_LABELS, name))
        declared = [DeclaredClass(label) for label in labels]
    by_name: dict[str, DeclaredClass] = {}
    for one in declared:
        is_placeholder = one.name.casefold() in _PLACEHOLDERS or one.name in ignored
        if not is_placeholder and (given is not None or not _is_ignored(one.name, skipped)):
            by_name.setdefault(one.name, one)
    if not by_name:
        raise DataError(f"no labels in {source.format} annotations", hint="Name the classes with --classes.")
    background = next((name for name in by_name if name.casefold() in BACKGROUND_LABELS), None)
    fallback = "ignore" if source.unlabeled == "ignore" else background or "background"
    wanted = unlabeled or fallback
    if wanted == "ignore":
        index_of_rest, classes = IGNORE, list(by_name.values())
    else:
        classes = list(by_name.values())
        if wanted not in by_name:
            classes.insert(0, DeclaredClass(wanted, (0, 0, 0)))
        index_of_rest = next(index for index, one in enumerate(classes) if one.name == wanted)
    names = tuple(one.name for one in classes)
    _require_usable(names)
    colors = tuple(one.color for one in classes if one.color is not None)
    distinct = len(set(colors)) == len(names)
    return ClassPlan(names, colors if distinct else None, skipped, index_of_rest)


def check_priority(priority: Sequence[str], plan: ClassPlan) -> None:
    """Refuse a priority of labels that do not occur.

    Raises:
        UsageError: one is no class; a similar one is named.
    """
    known = [*plan.names, "ignore"]
    for label in priority:
        if label not in known:
            close = difflib.get_close_matches(label, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Classes are {', '.join(plan.names)}."
            raise UsageError(f"--priority: {label!r} is no class of these annotations", hint)


def _is_ignored(label: str, ignored: frozenset[str]) -> bool:
    return label in ignored or label.casefold() in IGNORED_LABELS


def _require_usable(names: Sequence[str]) -> None:
    if len(names) > _MOST_CLASSES:
        raise UsageError(
            f"{len(names)} classes: masks have 8 bits and hold at most {_MOST_CLASSES}",
            "Choose fewer with --classes, which makes the others unknown, or rename labels to merge them.",
        )
    try:
        TypeAdapter(ClassNames).validate_python(list(names))
    except ValidationError as error:
        raise UsageError(
            f"names of classes that cannot be used: {first_fault(error)}", "Rename the label in the annotation tool."
        ) from None
