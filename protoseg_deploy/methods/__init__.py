"""Semi-supervised methods, composed of shared terms."""

from protoseg_deploy.methods.base import Method, StepResult, Supervised
from protoseg_deploy.methods.branch import PrototypeBranch
from protoseg_deploy.methods.clustering import LabeledViews
from protoseg_deploy.methods.corrmatch import CorrMatch
from protoseg_deploy.methods.fixmatch import FixMatch
from protoseg_deploy.methods.prototypes import PrototypeBank
from protoseg_deploy.methods.unimatch import UniMatch, UniMatchV2
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import ClassTable, Recipe

__all__ = [
    "CorrMatch",
    "FixMatch",
    "LabeledViews",
    "Method",
    "PrototypeBank",
    "PrototypeBranch",
    "StepResult",
    "Supervised",
    "UniMatch",
    "UniMatchV2",
    "build_method",
]

_METHODS: dict[str, type[FixMatch]] = {
    "fixmatch": FixMatch,
    "prototype": FixMatch,
    "unimatch": UniMatch,
    "unimatch_v2": UniMatchV2,
    "corrmatch": CorrMatch,
}


def build_method(recipe: Recipe, student: Segmenter, classes: ClassTable) -> Method:
    """The method a recipe names, with its training-only heads, on the device of the student."""
    device = student.head.weight.device
    if recipe.method.name == "supervised":
        return Supervised(recipe, student).to(device)
    return _METHODS[recipe.method.name](recipe, student, classes).to(device)
