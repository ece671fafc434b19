"""A recipe: strict, frozen models of every key it may hold.

Every field is followed by its own docstring; ``protoseg recipe explain`` prints them all.
"""

from typing import Self

from pydantic import model_validator

from protoseg_deploy.recipe.data import Data
from protoseg_deploy.recipe.method import Method, Model
from protoseg_deploy.recipe.train import Distill, Train
from protoseg_deploy.recipe.types import Section


class Recipe(Section):
    """Everything that determines a run."""

    data: Data
    """Where images and masks are, and what the masks mean."""
    model: Model = Model()
    """The network: timm backbone, decoder, linear head."""
    method: Method = Method()
    """How unlabelled images are used."""
    train: Train = Train()
    """The training loop."""
    distill: Distill = Distill()
    """Distillation into a student (``protoseg distill``)."""

    @model_validator(mode="after")
    def _unlabeled_images_are_there(self) -> Self:
        if not self.data.labeled.is_set:
            raise ValueError("`data.labeled` names no images: set `data.labeled.images` and `data.labeled.masks`")
        if self.method.name != "supervised" and not self.data.unlabeled.is_set:
            raise ValueError(
                f"method `{self.method.name}` needs `data.unlabeled.images`: any folder of images, no masks"
            )
        return self
