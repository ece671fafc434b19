"""Where a run's figures go beside ``metrics.jsonl``: TensorBoard, CSV, MLflow, Weights & Biases, or your own tracker.

A tracker is told what the run is, then figures, then how it ended. It works in a thread of its own: one that fails or
hangs is switched off with one warning, and the run goes on.
"""

from protoseg_deploy.registry import TRACKERS, register_tracker
from protoseg_deploy.training.trackers.base import Outcome, RunFacts, Tracker, run_facts
from protoseg_deploy.training.trackers.following import Limits, TrackerSet, require_trackers

__all__ = [
    "TRACKERS",
    "Limits",
    "Outcome",
    "RunFacts",
    "Tracker",
    "TrackerSet",
    "register_tracker",
    "require_trackers",
    "run_facts",
]
