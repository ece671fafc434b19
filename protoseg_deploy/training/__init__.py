"""Training runs."""

from protoseg_deploy.training.loop import Interrupted, Trainer, train
from protoseg_deploy.training.run import Run, resolved_recipe

__all__ = ["Interrupted", "Run", "Trainer", "resolved_recipe", "train"]
