"""The training loop: student, moving-average teacher, method; evaluation, checkpoints, exact resumption."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from protoseg_deploy.data import DataSets, find_data
from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.loading import TrainingBatches, training_loader
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import Method, StepResult
from protoseg_deploy.models import NetworkSpec, Segmenter, load_backbone_weights, save_network, save_prototypes
from protoseg_deploy.models import build_segmenter as build_network
from protoseg_deploy.recipe import ClassTable, Recipe, class_table
from protoseg_deploy.training.averages import StepAverages
from protoseg_deploy.training.devices import Compute
from protoseg_deploy.training.ema import EmaTeacher
from protoseg_deploy.training.optimization import build_optimizer, build_schedule
from protoseg_deploy.training.progress import TrainingProgress
from protoseg_deploy.training.run import Run, resolved_recipe
from protoseg_deploy.training.stopping import Interrupted, StopSignals
from protoseg_deploy.training.validation import validate

MethodBuilder = Callable[[Recipe, Segmenter, ClassTable], Method]
DataCheck = Callable[[Recipe, DataSets], Sequence[str]]


@dataclass
class _Best:
    miou_percent: float = -1.0
    step: int = 0


class Trainer:
    """One run from its first or its resumed step to its last.

    Args:
        recipe: resolved; see `resolved_recipe`.
        run: its folder.
        sets: its data.
        build_method: makes the method once the student exists; distillation brings its own.
        initial_weights: fetch or read the backbone's weights; a checkpoint that is about to be loaded replaces them.
        quiet: show no progress.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        sets: DataSets,
        build_method: MethodBuilder,
        *,
        initial_weights: bool = True,
        quiet: bool = False,
    ) -> None:
        self.recipe, self.run, self.sets, self.quiet = recipe, run, sets, quiet
        self.classes = class_table(recipe.data)
        self.compute = Compute.choose(recipe.train)
        torch.manual_seed(recipe.train.seed)
        self.spec = NetworkSpec(recipe.model, self.classes, recipe.data.input_scale, recipe.data.ignore_index)
        self.notes: list[str] = list(self.compute.notes)
        self.student = self.compute.place(self._new_student() if initial_weights else build_network(self.spec))
        self.method = build_method(recipe, self.student, self.classes)
        self.ema = EmaTeacher(self.student, recipe.method.ema_decay) if recipe.method.ema_teacher else None
        self.optimizer = build_optimizer(recipe.train, self.student, self.method)
        self.schedule = build_schedule(recipe.train, self.optimizer)
        self.scaler = torch.amp.GradScaler(self.compute.device.type, enabled=recipe.train.precision == "fp16")
        self.best = _Best()
        self.step = 0
        self.seconds = 0.0
        self.latest: dict[str, Any] = {}
        self.batches = TrainingBatches(recipe, sets.labeled, sets.unlabeled if self.method.uses_unlabeled else ())

    @property
    def deployed(self) -> Segmenter:
        """The network a run is about: the moving average where there is one."""
        return self.ema.network if self.ema else self.student

    def train(self) -> dict[str, Any]:
        """Train to the end and return the summary.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after a checkpoint.
            ProtosegError: the loss stopped being a number.
        """
        spec = self.recipe.train
        images_per_step = spec.batch_labeled + (spec.batch_unlabeled if self.method.uses_unlabeled else 0)
        progress = TrainingProgress(spec.steps, self.step, quiet=self.quiet)
        for note in self.notes:
            progress.say(note)
        writer = SummaryWriter(str(self.run.folder / "tensorboard"), purge_step=self.step)
        loader = training_loader(
            self.batches, self.step, self.compute.workers, pin_memory=self.compute.device.type == "cuda"
        )
        averages = StepAverages(images_per_step)
        self.student.train()
        start = time.perf_counter() - self.seconds
        with StopSignals() as stop, progress, writer:
            for batch in loader:
                if isinstance(batch, ProtosegError):
                    raise batch
                averages.add(self.train_step(batch.to(self.compute.device)))
                self.step += 1
                progress.advance()
                done = self.step == spec.steps
                if done or self.step % spec.eval_every == 0:
                    self._log(averages, progress, writer)
                    self._evaluate(averages, progress, writer)
                stopped = stop.received  # read once: what is said below has to be what was done
                if done or stopped or self.step % spec.checkpoint_every == 0:
                    # Logging looks at the losses: nothing is kept of a network whose loss is not a number any more.
                    self._log(averages, progress, writer)
                    self.seconds = time.perf_counter() - start
                    self.run.checkpoints.save(self.step, self._state())
                    averages.restart_clock()
                if stopped and not done:
                    raise Interrupted(self.run.folder, self.step, stopped)
                if self.step % spec.log_every == 0:
                    self._log(averages, progress, writer)
        return self.finish()

    def resume(self) -> None:
        """Take up the newest readable checkpoint; without one, start at step 0."""
        state, damaged = self.run.checkpoints.load_newest()
        self.notes += [f"warning: {line}; using the one before" for line in damaged]
        if state is None:
            self.notes.append("no checkpoint yet: starting at step 0")
            self.run.forget_after(0)
            return
        self._load_state(state)
        self.run.forget_after(self.step)
        self.notes.append(f"resuming after step {self.step}")

    def train_step(self, batch: Batch) -> StepResult:
        """One optimiser step on a batch on the device; the host waits for nothing."""
        spec = self.recipe.train
        self.method.prepare(self.student, self.step, self._labeled_views)
        with self.compute.autocast():
            teacher = self.ema.network if self.ema else self.student
            result = self.method.step(self.student, teacher, batch, self.step)
            loss = result.total()
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if spec.clip_grad_norm is not None:
            self.scaler.unscale_(self.optimizer)
            trained = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, spec.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        if self.ema:
            self.ema.update(self.student)
        return result

    def _labeled_views(self, class_index: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Random views of all labelled images, 64 or more of them; or views around pixels of one class."""
        if class_index is not None:
            return self.batches.views_of_class(class_index)
        return self.batches.labeled_views(rounds=-(-64 // len(self.sets.labeled)))

    def _log(self, averages: StepAverages, progress: TrainingProgress, writer: SummaryWriter) -> None:
        if averages.steps == 0:  # just done, for an evaluation or a checkpoint
            return
        values, images_per_second = averages.read()
        if not all(map(math.isfinite, values.values())):
            raise ProtosegError(
                f"the loss stopped being a number before step {self.step}: {values}",
                "Lower train.lr, set train.clip_grad_norm=1, or train in another precision. Checkpoints made before "
                f"are in {self.run.checkpoints.folder}.",
            )
        lr = self.schedule.get_last_lr()[0]
        record = {"kind": "train", "step": self.step, **values, "lr": lr, "images_per_second": images_per_second}
        self.run.append_metrics(record)
        for name, value in record.items():
            if isinstance(value, float):
                writer.add_scalar(f"train/{name}", value, self.step)
        progress.show(values, images_per_second)

    def _evaluate(self, averages: StepAverages, progress: TrainingProgress, writer: SummaryWriter) -> None:
        networks = {"student": self.student}
        if self.ema:
            networks["teacher"] = self.ema.network
        matrices = validate(networks, self.sets.val, self.recipe.data)
        miou = {name: matrix.miou_percent() for name, matrix in matrices.items()}
        deployed = "teacher" if self.ema else "student"
        iou = dict(zip(self.classes.names, _finite(matrices[deployed].iou_percent()), strict=True))
        self.latest = {
            "step": self.step,
            "miou_percent": _finite([miou[deployed]])[0],
            "student_miou_percent": _finite([miou["student"]])[0],
            "iou_percent": iou,
        }
        self.run.append_metrics({"kind": "evaluation", **self.latest})
        diagnostics = self.method.diagnostics()
        if diagnostics:
            self.run.append_metrics({"kind": "prototypes", "step": self.step, **diagnostics})
            for name, values in diagnostics.items():
                _write_per_class(writer, f"prototypes/{name}", self.classes, values, self.step)
        for name, value in miou.items():
            writer.add_scalar(f"miou_percent/{name}", value, self.step)
        self._save_network(self.run.last)
        if self.best.step == 0 or miou[deployed] > self.best.miou_percent:
            self.best = _Best(miou[deployed], self.step)
            self._save_network(self.run.best)
            prototypes = self.method.prototypes()
            if prototypes is not None:
                save_prototypes(self.run.prototypes, prototypes)
        progress.evaluated(self.step, miou, self.best.miou_percent)
        averages.restart_clock()

    def _save_network(self, path: Path) -> None:
        provenance = {
            "run": self.run.folder.name,
            "method": self.method.name,
            "step": self.step,
            "steps": self.recipe.train.steps,
            "miou_percent": self.latest["miou_percent"],
        }
        save_network(path, self.deployed.state_dict(), replace(self.spec, provenance=provenance))

    def _new_student(self) -> Segmenter:
        weights = self.recipe.model.weights
        student = build_network(self.spec, pretrained=weights == "pretrained")
        if weights not in {"pretrained", "none"}:
            report = load_backbone_weights(student.backbone, Path(weights))
            unused = f", {len(report.unused)} not used ({', '.join(report.unused[:3])} …)" if report.unused else ""
            self.notes.append(f"backbone weights: {report.loaded} tensors from {weights}{unused}")
        return student

    def _state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "student": self.student.state_dict(),
            "teacher": self.ema.state_dict() if self.ema else None,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best": {"miou_percent": self.best.miou_percent, "step": self.best.step},
            "latest": self.latest,
            "seconds": self.seconds,
            "rng": torch.get_rng_state(),
            "rng_cuda": torch.cuda.get_rng_state_all() if self.compute.device.type == "cuda" else [],
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        try:
            self.student.load_state_dict(state["student"])
            self.method.load_state_dict(state["method"])
            if self.ema:
                self.ema.load_state_dict(state["teacher"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            self.scaler.load_state_dict(state["scaler"])
            self.best = _Best(**state["best"])
            self.step, self.latest, self.seconds = state["step"], state["latest"], state["seconds"]
            torch.set_rng_state(state["rng"])
            if state["rng_cuda"]:
                torch.cuda.set_rng_state_all(state["rng_cuda"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ProtosegError(f"the checkpoint of {self.run.folder} does not fit its recipe: {error}") from None

    def finish(self) -> dict[str, Any]:
        """Write the summary; all of it comes from the last checkpoint."""
        summary = {
            "method": self.method.name,
            "steps": self.step,
            "best_miou_percent": self.best.miou_percent,
            "best_step": self.best.step,
            "last_miou_percent": self.latest["miou_percent"],
            "last_student_miou_percent": self.latest["student_miou_percent"],
            "last_iou_percent": self.latest["iou_percent"],
            "labeled_images": len(self.sets.labeled),
            "unlabeled_images": len(self.batches.unlabeled),
            "train_seconds": self.seconds,
            "device": str(self.compute.device),
        }
        self.run.write_summary(summary)
        return summary


def train(
    recipe: Recipe,
    folder: Path,
    build_method: MethodBuilder,
    *,
    resume: bool = False,
    quiet: bool = False,
    check: DataCheck | None = None,
) -> dict[str, Any]:
    """Train a recipe into a run folder and return the summary of the run.

    Args:
        recipe: as loaded.
        folder: new or empty; with `resume` the folder of an interrupted run.
        build_method: normally `methods.build_method`.
        resume: continue from the newest checkpoint.
        quiet: show no progress.
        check: looks at recipe and data before anything is written; raises where they cannot be used, and returns what
            deserves a warning.
    """
    recipe = resolved_recipe(recipe, class_table(recipe.data))
    sets = find_data(recipe.data, need_unlabeled=recipe.data.unlabeled.is_set, need_val=True)
    _check_batch(recipe)
    run = Run.reopen(folder, recipe, sets) if resume else Run(folder)
    warnings: Sequence[str] = ()
    if not resume:
        run.refuse_to_overwrite()
        warnings = check(recipe, sets) if check is not None else ()
    fresh = not (resume and run.checkpoints.paths())
    trainer = Trainer(recipe, run, sets, build_method, initial_weights=fresh, quiet=quiet)
    trainer.notes += [f"warning: {warning}" for warning in warnings]
    if resume:
        trainer.resume()
        if trainer.step >= recipe.train.steps:
            return run.summary() if run.summary_path.is_file() else trainer.finish()
    else:
        run.start(recipe, sets)
    return trainer.train()


def _check_batch(recipe: Recipe) -> None:
    if recipe.train.batch_labeled < 2 and recipe.model.decoder == "deeplabv3plus":
        raise UsageError(
            "train.batch_labeled: deeplabv3plus normalises over the batch and needs at least 2 images",
            "Set train.batch_labeled=2 or more, or another decoder.",
        )


def _finite(values: list[float]) -> list[float | None]:
    """JSON knows no NaN: a class that occurs nowhere has no IoU."""
    return [None if value != value else value for value in values]


def _write_per_class(writer: SummaryWriter, tag: str, classes: ClassTable, values: list[Any], step: int) -> None:
    for name, value in zip(classes.names, values, strict=True):
        figure = sum(1 for count in value if count > 0) if isinstance(value, list) else value
        writer.add_scalar(f"{tag}/{name}", figure, step)
