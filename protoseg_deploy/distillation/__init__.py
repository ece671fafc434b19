"""Distillation into a network with a linear head only."""

from protoseg_deploy.distillation.distill import DistillReport, distill
from protoseg_deploy.distillation.method import Distillation, FrozenTeacher

__all__ = ["DistillReport", "Distillation", "FrozenTeacher", "distill"]
