"""What a run writes down while it trains: metrics, trackers, networks; only the first process does."""

import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Self

from protoseg_deploy.distributed import world
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.methods import Method
from protoseg_deploy.models import NetworkSpec, Segmenter, save_network, save_prototypes
from protoseg_deploy.recipe import ClassTable, Recipe
from protoseg_deploy.text import readable
from protoseg_deploy.training.averages import StepAverages
from protoseg_deploy.training.progress import TrainingProgress
from protoseg_deploy.training.records import finite
from protoseg_deploy.training.run import Run
from protoseg_deploy.training.stopping import Interrupted, OutOfTime
from protoseg_deploy.training.trackers import Outcome, TrackerSet, run_facts

_LAG_POINTS = 5.0
"""Of mIoU between student and moving average; in a run long enough they end within a point or two."""


@dataclass
class Best:
    """The best evaluation so far."""

    miou_percent: float = -1.0
    step: int = 0


class RunRecord(AbstractContextManager["RunRecord"]):
    """Writes a run's figures to `metrics.jsonl`, its trackers and the terminal, and its networks to files.

    Args:
        run: its folder.
        spec: of the network, for its files.
        progress: what people see.
        first_step: where this process starts.
        recipe: of the run, for its trackers.
    """

    def __init__(
        self, run: Run, spec: NetworkSpec, progress: TrainingProgress, first_step: int, recipe: Recipe
    ) -> None:
        self.run, self.spec, self.progress = run, spec, progress
        self.writes = world().is_first
        self.recipe, self.first_step = recipe, first_step
        self.trackers = TrackerSet(recipe.train.trackers if self.writes else (), progress.say)
        self._results: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._hook_before = threading.excepthook
        self.trackers.start(run_facts(self.run, self.recipe, self.first_step))
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        stopped = kind is not None and issubclass(kind, (Interrupted, OutOfTime))
        described = (self.run.recipe_path, self.run.labeled_list)
        self.trackers.finish(
            Outcome(
                "finished" if kind is None else "stopped" if stopped else "failed",
                self._results,
                tuple(path for path in described if path.is_file()),
            )
        )
        threading.excepthook = self._hook_before

    def losses(self, step: int, averages: StepAverages, lr: float) -> None:
        """Averages since the last call; every process takes part, for they are over all processes."""
        if averages.steps == 0:  # just done, for an evaluation or a checkpoint
            return
        values, skipped, images_per_second = averages.read()
        record: dict[str, Any] = {"step": step, **values, "lr": lr, "images_per_second": images_per_second}
        if skipped:
            record["skipped_steps"] = skipped
            self.progress.say(f"warning: skipped {skipped} steps before step {step}: loss or gradient was not finite")
        if not self.writes:
            return
        self.run.append_metrics({"kind": "train", **record})
        self._scalars("train", {name: value for name, value in record.items() if isinstance(value, float)}, step)
        self.progress.show(values, images_per_second)

    def evaluation(
        self,
        step: int,
        matrices: Mapping[str, ConfusionMatrix],
        classes: ClassTable,
        network: Segmenter,
        method: Method,
        best: Best,
        steps: int,
    ) -> tuple[dict[str, Any], Best]:
        """Scores of the networks, the network files that follow from them, and what the method says of itself.

        Args:
            step: how many are done.
            matrices: of ``student`` and, where there is one, ``teacher``.
            classes: their names.
            network: the one that is saved: the teacher where there is one.
            method: its prototypes go with the best network.
            best: so far.
            steps: of the whole run.

        Returns:
            The evaluation as it is written down, and the best so far.
        """
        miou = {name: matrix.miou_percent() for name, matrix in matrices.items()}
        saved = "teacher" if "teacher" in matrices else "student"
        latest = {
            "step": step,
            "miou_percent": finite(miou[saved]),
            "student_miou_percent": finite(miou["student"]),
            "iou_percent": dict(zip(classes.names, map(finite, matrices[saved].iou_percent()), strict=True)),
        }
        improved = best.step == 0 or miou[saved] > best.miou_percent
        best = Best(miou[saved], step) if improved else best
        self._results = {
            "last_miou_percent": miou[saved],
            "best_miou_percent": best.miou_percent,
            "best_step": best.step,
        }
        diagnostics = method.take_diagnostics()
        if self.writes:
            self.run.append_metrics({"kind": "evaluation", **latest})
            self._scalars("miou_percent", miou, step)
            if diagnostics:
                self.run.append_metrics({"kind": "prototypes", "step": step, **diagnostics})
                self._per_class(diagnostics, classes, step)
            provenance = {
                "run": readable(self.run.folder.name),
                "method": method.name,
                "step": step,
                "steps": steps,
                "miou_percent": latest["miou_percent"],
            }
            spec = replace(self.spec, provenance=provenance)
            save_network(self.run.last, network.state_dict(), spec)
            if improved:
                save_network(self.run.best, network.state_dict(), spec)
                prototypes = method.prototypes()
                if prototypes is not None:
                    save_prototypes(self.run.prototypes, prototypes)
            shown = {method.average_name if name == "teacher" else name: value for name, value in miou.items()}
            self.progress.evaluated(step, shown, best.miou_percent)
        return latest, best

    def _scalars(self, tag: str, values: Mapping[str, float], step: int) -> None:
        self.trackers.scalars({f"{tag}/{name}": value for name, value in values.items()}, step)

    def _per_class(self, diagnostics: Mapping[str, list[Any]], classes: ClassTable, step: int) -> None:
        for figure, values in diagnostics.items():
            shown = [sum(count > 0 for count in value) if isinstance(value, list) else value for value in values]
            self._scalars(f"prototypes/{figure}", dict(zip(classes.names, shown, strict=True)), step)


def lag_of_average(evaluation: Mapping[str, Any]) -> str | None:
    """A warning where the network that is kept ends far below the student it is the average of."""
    kept, student = evaluation["miou_percent"], evaluation["student_miou_percent"]
    if kept is None or student is None or student - kept < _LAG_POINTS:
        return None
    return (
        f"the EMA network, which is kept, ends {student - kept:.1f} points of mIoU below the student: it lags "
        "behind in a short run. Train longer, or lower method.ema_decay"
    )
