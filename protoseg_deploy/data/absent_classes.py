"""Classes without a labelled or a validation pixel: whether that is a fault, and what could be done about it."""

from collections.abc import Sequence

from protoseg_deploy.data.folders import DataSets
from protoseg_deploy.data.looking import Seen, masks_in
from protoseg_deploy.data.report import Findings
from protoseg_deploy.data.value_maps import likely_changes, renumbering, value_map_line
from protoseg_deploy.recipe import ClassTable, Recipe


def check_classes(
    recipe: Recipe, classes: ClassTable, sets: DataSets, labeled: Sequence[Seen], val: Sequence[Seen], found: Findings
) -> None:
    """Add to `found` what is to be said of classes that masks do not show, and of masks that show none."""
    shown = {value for mask in masks_in(labeled) for value in mask.pixels}
    absent = [index for index in range(len(classes)) if index not in shown]
    unread = len(labeled) - len(masks_in(labeled))
    if absent and unread < len(labeled):
        names = ", ".join(classes.names[index] for index in absent)
        of_read = f" ({unread} {'mask' if unread == 1 else 'masks'} could not be read)" if unread else ""
        text = (
            f"no labelled pixel of {names} in {len(labeled)} labelled images{of_read}: the network cannot "
            "learn what they look like"
        )
        mends = _mends_of_absent(recipe, classes, sets, absent, shown)
        if _is_fault(recipe, len(classes) - len(absent)):
            found.faults.append(text)
            found.hints += mends
        else:
            found.warnings.append(f"{text}. {' '.join(mends)}" if recipe.data.missing_classes is None else text)
    shown_val = {value for mask in masks_in(val) for value in mask.pixels if value < len(classes)}
    if val and not shown_val and len(masks_in(val)) == len(val):
        found.faults.append(
            "the validation masks hold nothing but ignored pixels: there is nothing to evaluate a network on"
        )
    elif val:
        unseen = [name for index, name in enumerate(classes.names) if index not in shown_val]
        if unseen:
            found.warnings.append(f"no validation pixel of {', '.join(unseen)}: they cannot be evaluated")
    elif not sets.val and not found.faults:
        found.warnings.append("there are no validation images: the network cannot be evaluated")


def _is_fault(recipe: Recipe, shown: int) -> bool:
    """Whether classes may lack labelled pixels, with so many that do not."""
    if recipe.data.missing_classes is not None:
        return recipe.data.missing_classes == "error"
    return recipe.method.has_prototypes or shown < 2


def _mends_of_absent(
    recipe: Recipe, classes: ClassTable, sets: DataSets, absent: Sequence[int], shown: set[int]
) -> list[str]:
    data = recipe.data
    mends = []
    likely = likely_changes(shown, len(classes), data.ignore_index)
    if likely is not None:
        line = value_map_line(data.value_map, likely)
        mends.append(f"If the values of masks are the classes in their order: {line}.")
    elif data.ignore_index in shown:
        line = value_map_line(data.value_map, {data.ignore_index: absent[0]})
        others = " (or the index of another class)" if len(absent) > 1 else ""
        mends.append(f"If {data.ignore_index}, which is ignored, means {classes.names[absent[0]]}: {line}{others}.")
    if len(sets.labeled) < sets.labeled_pool and data.labeled_draw == "random":
        mends.append("data.labeled_draw: covering draws images that show every class, where there are any.")
    if len(classes) - len(absent) >= 2 and not classes.binary:
        moved = renumbering(absent, len(classes))
        line = f" and set {value_map_line(data.value_map, moved)}" if moved else ""
        mends.append(f"Label images that show them, or leave them out of data.classes{line}.")
    if recipe.method.has_prototypes:
        mends.append("data.missing_classes: ignore trains without prototypes of these classes.")
    return mends
