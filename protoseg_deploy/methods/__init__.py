"""Semi-supervised methods, composed of shared terms."""

from protoseg_deploy.methods.base import Method, StepResult, Supervised
from protoseg_deploy.methods.branch import PrototypeBranch
from protoseg_deploy.methods.clustering import LabeledViews
from protoseg_deploy.methods.corrmatch import CorrMatch
from protoseg_deploy.methods.fixmatch import FixMatch
from protoseg_deploy.methods.prototypes import PrototypeBank
from protoseg_deploy.methods.pseudo_labeling import PseudoLabelMethod
from protoseg_deploy.methods.unimatch import UniMatch, UniMatchV2
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import ClassTable, Recipe
from protoseg_deploy.registry import METHODS, register_method

__all__ = [
    "CorrMatch",
    "FixMatch",
    "LabeledViews",
    "Method",
    "PrototypeBank",
    "PrototypeBranch",
    "PseudoLabelMethod",
    "StepResult",
    "Supervised",
    "UniMatch",
    "UniMatchV2",
    "build_method",
    "register_method",
]


def build_method(recipe: Recipe, student: Segmenter, classes: ClassTable) -> Method:
    """The method a recipe names, with its training-only heads, on the device of the student.

    Raises:
        UsageError: there is no method of that name.
    """
    method: Method = METHODS.get(recipe.method.name)(recipe, student, classes)
    return method.to(student.head.weight.device)
