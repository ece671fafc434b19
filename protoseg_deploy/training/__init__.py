"""Training runs."""

from protoseg_deploy.training.loop import Trainer
from protoseg_deploy.training.run import Run, resolved_recipe
from protoseg_deploy.training.starting import train
from protoseg_deploy.training.stopping import RESUMING, Interrupted, OutOfTime

__all__ = ["RESUMING", "Interrupted", "OutOfTime", "Run", "Trainer", "resolved_recipe", "train"]
