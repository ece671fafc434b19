"""The training loop: student, EMA teacher, method; evaluation, checkpoints, exact resumption."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from protoseg_deploy.benchmarking.memory import process_peak_bytes
from protoseg_deploy.data import DataSets
from protoseg_deploy.data.batch import Batch
from protoseg_deploy.data.loading import TrainingBatches
from protoseg_deploy.data.workers import LoaderError, TrainingLoader
from protoseg_deploy.distributed import world
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.methods import Method
from protoseg_deploy.models import NetworkSpec, Segmenter, load_backbone_weights
from protoseg_deploy.models import build_segmenter as build_network
from protoseg_deploy.recipe import ClassTable, Recipe, class_table, image_reading
from protoseg_deploy.training.averages import StepAverages
from protoseg_deploy.training.devices import Compute
from protoseg_deploy.training.processes import (
    agreed,
    own_random_numbers,
    own_random_state,
    random_states,
    require_the_same,
    wait_for_others,
)
from protoseg_deploy.training.progress import TrainingProgress
from protoseg_deploy.training.recording import Best, RunRecord, lag_of_average
from protoseg_deploy.training.run import Run
from protoseg_deploy.training.skipping import SkippedSteps, TooManySkipped, write_replay
from protoseg_deploy.training.state import load_state, require_finite, state_of, summary_of
from protoseg_deploy.training.state_shape import require_state
from protoseg_deploy.training.step import StepOutcome, TrainStep
from protoseg_deploy.training.stopping import RESUMING, Interrupted, OutOfTime, StopSignals
from protoseg_deploy.training.unreadable import UnreadableImages
from protoseg_deploy.training.validation import validate

MethodBuilder = Callable[[Recipe, Segmenter, ClassTable], Method]

_FP16_SKIPS = 24
"""Steps in a row that fp16 may skip for no other reason than that its loss scale has yet to fall to what fits."""

_OUT_OF_TIME = 1000
"""A number that no signal has."""


class Trainer:
    """One run from its first or its resumed step to its last; with others like it where ``torchrun`` started several.

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
        self.spec = NetworkSpec(
            recipe.model,
            self.classes,
            recipe.data.input_scale,
            recipe.data.ignore_index,
            reading=image_reading(recipe.data),
        )
        self.notes: list[str] = list(self.compute.notes)
        self.student = self.compute.place(self._new_student() if initial_weights else build_network(self.spec))
        self.spec = replace(self.spec, model=self.student.spec)
        self.method = self.compute.synchronised(build_method(recipe, self.student, self.classes))
        self.stepper = TrainStep(recipe, self.compute, self.student, self.method)
        self.ema = self.stepper.ema
        own_random_numbers(recipe.train.seed)
        self.best = Best()
        self.step = 0
        self.seconds = 0.0
        self.peak_memory_mib = 0.0
        self.latest: dict[str, Any] = {}
        self.unreadable = UnreadableImages(run.folder, recipe.data.max_unreadable_share)
        self.batches = TrainingBatches(
            recipe,
            sets.labeled,
            sets.unlabeled if self.method.uses_unlabeled else (),
            strong_views=self.method.strong_views,
            augment_in_loader=self.compute.device.type == "cpu",
            world=world(),
        )
        self.workers = self.compute.plan_workers(recipe.train, self.batches.batch_bytes())
        self.notes += [self.workers.note] if self.workers.note else []

    @property
    def deployed(self) -> Segmenter:
        """The network a run is about: the moving average where there is one."""
        return self.ema.network if self.ema else self.student

    def train(self) -> dict[str, Any]:
        """Train to the end and return the summary.

        Raises:
            Interrupted: by SIGINT or SIGTERM, after a checkpoint.
            OutOfTime: ``train.max_hours`` are over, after a checkpoint.
            TooManySkipped: the loss is NaN or infinite in too many steps in a row.
            NotFiniteError: a network holds NaN or infinity when it is to be evaluated or saved; what was saved before
                is kept.
            ProtosegError: a batch could not be made, or has not come from its data-loader worker.
        """
        spec, device = self.recipe.train, self.compute.device
        images_per_step = spec.batch_labeled + (spec.batch_unlabeled if self.method.uses_unlabeled else 0)
        progress = self._progress()
        pin_memory = device.type == "cuda"
        loader = TrainingLoader(self.batches, self.step, self.workers, pin_memory=pin_memory, timeout_s=spec.timeout_s)
        skipped = SkippedSteps(spec.max_skipped_steps + (_FP16_SKIPS if spec.precision == "fp16" else 0), device)
        self.student.train()
        started, first_step = time.perf_counter(), self.step
        before = self.seconds
        with ExitStack() as stack:
            stop = stack.enter_context(StopSignals())
            stack.enter_context(progress)
            record = stack.enter_context(RunRecord(self.run, self.spec, progress, self.step, self.recipe))
            averages = StepAverages(images_per_step)
            arriving = stack.enter_context(closing(iter(loader)))
            while self.step < spec.steps:
                try:
                    batch = next(arriving)
                except LoaderError as error:
                    self.seconds = before + time.perf_counter() - started
                    raise self._without_a_batch(error, record, averages, self.step > first_step) from None
                random_state = own_random_state(device)
                outcome = self.train_step(batch := batch.to(device).with_strong_views())
                averages.add(outcome.result, outcome.taken)
                too_many = skipped.see(self.step, outcome.taken, batch, random_state)
                if too_many is not None:
                    raise self._too_many_skipped(skipped.limit, *too_many)
                self.step += 1
                self.unreadable.see(batch.unreadable, self.step)
                progress.advance()
                done = self.step == spec.steps
                if done or self.step % spec.eval_every == 0:
                    self._log(record, averages)
                    self._evaluate(record)
                    averages.restart_clock()
                seconds = time.perf_counter() - started
                stopped = self._stopped(stop, seconds)  # asked once: what is said below has to be what was done
                if done or stopped or self.step % spec.checkpoint_every == 0:
                    self._log(record, averages)
                    self.seconds = before + seconds
                    peak_bytes = process_peak_bytes(device)
                    self.peak_memory_mib = max(self.peak_memory_mib, peak_bytes / 2**20)
                    self._save_checkpoint()
                    averages.restart_clock()
                if stopped and not done:
                    if stopped == _OUT_OF_TIME:
                        raise OutOfTime(self.run.folder, self.step, spec.steps, seconds)
                    raise Interrupted(self.run.folder, self.step, stopped)
                if self.step % spec.log_every == 0:
                    self._log(record, averages)
            unreadable = self.unreadable.report()
            if unreadable is not None:
                progress.say(f"warning: {unreadable}")
            if (lag := lag_of_average(self.latest)) is not None:
                progress.say(f"warning: {lag}")
        return self.finish()

    def resume(self) -> None:
        """Take up the newest readable checkpoint; without one, start at step 0."""
        state, damaged = self.run.checkpoints.load_newest(require_state)
        self.notes += [f"warning: {line}; using the one before" for line in damaged]
        if state is None:
            self.notes.append("no checkpoint yet: starting at step 0")
        else:
            load_state(self, state, self.run.checkpoints.paths()[-1 - len(damaged)])
            self.notes.append(f"resuming after step {self.step}")
        require_the_same(self.step, self.compute.device)
        self.unreadable.forget_after(self.step)
        if world().is_first:
            self.run.forget_after(self.step)
            self.run.keep_recipe(self.recipe)

    def already_done(self) -> dict[str, Any]:
        """The summary of a run that was resumed where it had ended."""
        if not self.run.is_finished(self.step):
            return self.finish()
        longer = (
            "use --extend-to N to train longer" if self.method.verb == "train" else "for more steps use a new --run"
        )
        self.notes.append(f"the run is already finished; {longer}")
        self._progress()
        return self.run.summary()

    def _progress(self) -> TrainingProgress:
        """What shows how far the run is, after it has said what there is to say."""
        progress = TrainingProgress(self.recipe.train.steps, self.step, quiet=self.quiet or not world().is_first)
        for note in self.notes:
            progress.say(note)
        return progress

    def train_step(self, batch: Batch) -> StepOutcome:
        """One optimiser step on a batch on the device; the host waits for nothing."""
        self.method.prepare(self.student, self.step, self._labeled_views)
        return self.stepper.take(batch, self.step)

    def _labeled_views(self, class_index: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Random views of all labelled images, 64 or more of them; or views around pixels of one class."""
        if class_index is not None:
            return self.batches.views_of_class(class_index)
        return self.batches.labeled_views(rounds=-(-64 // len(self.sets.labeled)))

    def _log(self, record: RunRecord, averages: StepAverages) -> None:
        self.unreadable.record(self.step * self.recipe.train.batch_unlabeled)
        record.losses(self.step, averages, self.stepper.lr)

    def _evaluate(self, record: RunRecord) -> None:
        require_finite(self)
        networks = {"student": self.student}
        if self.ema:
            networks["teacher"] = self.ema.network
        matrices = validate(networks, self.sets.val, self.recipe.data, self.recipe.train, world())
        self.latest, self.best = record.evaluation(
            self.step, matrices, self.classes, self.deployed, self.method, self.best, self.recipe.train.steps
        )

    def _stopped(self, stop: StopSignals, seconds: float) -> int:
        """A signal's number, `_OUT_OF_TIME` or 0; several processes ask each other at every log line only."""
        spec = self.recipe.train
        if world().size > 1 and self.step % spec.log_every:
            return 0
        over = spec.max_hours is not None and seconds >= spec.max_hours * 3600
        return agreed(stop.received or (_OUT_OF_TIME if over else 0), self.compute.device)

    def _without_a_batch(
        self, error: LoaderError, record: RunRecord, averages: StepAverages, advanced: bool
    ) -> ProtosegError:
        """The error with what is saved; alone, a process can still save the step before."""
        if advanced and world().size == 1:
            self._log(record, averages)
            self._save_checkpoint()
        saved = self.run.checkpoints.paths()
        safe = f"The run is saved in {saved[-1]}; continue" if saved else "No checkpoint was due yet; start again"
        return ProtosegError(
            f"step {self.step + 1}: {error.message}",
            f"{safe} with {RESUMING}. {error.hint}",
        )

    def _too_many_skipped(
        self, in_a_row: int, step: int, batch: Batch, random_state: dict[str, Tensor]
    ) -> TooManySkipped:
        state = {
            "student": self.student.state_dict(),
            "teacher": self.ema.network.state_dict() if self.ema else None,
            "method": self.method.name,
            "method_state": self.method.state_dict(),
        }
        file = write_replay(self.run.folder, step, batch, random_state, state)
        return TooManySkipped(in_a_row, step, file)

    def _new_student(self) -> Segmenter:
        weights = self.recipe.model.weights
        student = build_network(self.spec, pretrained=weights == "pretrained")
        if weights not in {"pretrained", "none"}:
            report = load_backbone_weights(student.backbone, Path(weights))
            unused = f", {len(report.unused)} not used ({', '.join(report.unused[:3])} …)" if report.unused else ""
            cast = f", {' and '.join(report.cast)} cast to float32" if report.cast else ""
            self.notes.append(f"backbone weights: {report.loaded} tensors from {weights}{unused}{cast}")
        return student

    def _save_checkpoint(self) -> None:
        """Random numbers are every process's own; the rest is the same in all, and the first one writes it."""
        require_finite(self)
        random = random_states(self.compute.device)
        if world().is_first:
            self.run.checkpoints.save(self.step, {**state_of(self), "random": random})
        wait_for_others()

    def finish(self) -> dict[str, Any]:
        """Write the summary and return it."""
        summary = summary_of(self)
        if world().is_first:
            self.run.write_summary(summary)
        return summary
