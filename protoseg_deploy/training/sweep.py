"""Variants of a recipe, each trained with the same seeds: which runs that makes, and training those that are missing.

Every run is a process of its own, so that its peak memory is its own and a crash takes nothing else down.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from protoseg_deploy.data import find_data
from protoseg_deploy.errors import UsageError, WriteError
from protoseg_deploy.files import remove_scratch, require_inside, require_no_overwriting, write_atomically
from protoseg_deploy.locks import owner_of, sole_writer
from protoseg_deploy.recipe import (
    Recipe,
    class_table,
    differing_keys,
    dump_recipe,
    find_recipe,
    load_recipe,
    resumable_keys,
    with_keys_of,
)
from protoseg_deploy.recipe.loading import did_you_mean
from protoseg_deploy.registry import METHODS
from protoseg_deploy.training.resuming import with_measured_range_of
from protoseg_deploy.training.run import Run, resolved_recipe
from protoseg_deploy.training.stopping import StopSignals

_SEED_KEYS = ("data.labeled_seed", "train.seed")
_WITH_PROTOTYPES = "+prototypes"
_POLL_SECONDS = 0.1

DOCUMENT, TEXT, PICTURE = "comparison.json", "comparison.md", "miou.png"
"""Results of a comparison, in the folder of the sweep."""


@dataclass(frozen=True)
class Variant:
    """What one line of a comparison changes of the recipe."""

    name: str
    overrides: tuple[str, ...]

    @classmethod
    def of_method(cls, name: str) -> "Variant":
        """A method; ``NAME+prototypes`` is it with the prototype branch.

        Raises:
            UsageError: there is no such method.
        """
        names = METHODS.names()
        branched = [method + _WITH_PROTOTYPES for method in names if method not in {"supervised", "prototype"}]
        if name not in names and name not in branched:
            raise UsageError(
                f"no method named {name!r}{did_you_mean(name, [*names, *branched])}",
                f"Methods: {', '.join(names)}. With the prototype branch: {', '.join(branched)}. "
                "Anything else is a --variant.",
            )
        enabled = "true" if name in branched else "null"  # the recipe may have set it for its own method
        method = name.removesuffix(_WITH_PROTOTYPES)
        return cls(name, (f"method.name={method}", f"method.prototypes.enabled={enabled}"))

    @classmethod
    def parse(cls, text: str) -> "Variant":
        """``NAME: KEY=VALUE KEY=VALUE …``; values with spaces are quoted as in a shell.

        Raises:
            UsageError: it is not of this form.
        """
        name, separator, rest = text.partition(":")
        name = name.strip()
        try:
            overrides = tuple(shlex.split(rest))
        except ValueError:
            separator = ""  # a quotation that does not end
        if not separator or not name or name[0] == "." or not all(sign.isalnum() or sign in "._+-" for sign in name):
            raise UsageError(
                f"{text!r} is not a variant",
                "Variants look like 'wide: model.decoder_channels=128 method.name=fixmatch'; the name is letters, "
                "digits and any of . _ + -",
            )
        return cls(name, overrides)


@dataclass(frozen=True)
class PlannedRun:
    """One variant with one seed."""

    variant: str
    seed: int
    recipe: Recipe
    """Resolved."""
    run: Run

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.run.folder.name}"

    def is_finished(self) -> bool:
        return self.run.is_finished(self.recipe.train.steps)


@dataclass(frozen=True)
class SweepOutcome:
    """How it ended."""

    failed: tuple[str, ...]
    """Names of runs."""
    signal: int
    """SIGINT or SIGTERM where it was asked to stop, else 0."""


def plan_runs(
    source: str | Path, overrides: Sequence[str], variants: Sequence[Variant], seeds: Sequence[int], folder: Path
) -> list[PlannedRun]:
    """All runs of a sweep, one seed after the other, in ``FOLDER/VARIANT/seed-N``.

    A seed decides both the labelled subset and everything random in training.

    Args:
        source: see `load_recipe`.
        overrides: of all runs.
        variants: have the last word.
        seeds: each once.
        folder: of the sweep.

    Raises:
        UsageError: a recipe has errors, names or seeds come twice, a run was started with another recipe, or a file of
            somebody else would be replaced or a link followed.
    """
    for name in {variant.name for variant in variants}:
        if sum(variant.name == name for variant in variants) > 1:
            raise UsageError(f"two variants are named {name!r}", "Give each its own name.")
    for override in (*overrides, *(override for variant in variants for override in variant.overrides)):
        if override.partition("=")[0].strip() in _SEED_KEYS:
            raise UsageError(f"{override}: seeds are given with --seeds", f"It sets {' and '.join(_SEED_KEYS)}.")
    planned = []
    for seed in seeds:
        for variant in variants:
            values = (*overrides, *variant.overrides, *(f"{key}={seed}" for key in _SEED_KEYS))
            recipe = load_recipe(source, values)
            recipe = resolved_recipe(recipe, class_table(recipe.data))
            planned.append(PlannedRun(variant.name, seed, recipe, Run(folder / variant.name / f"seed-{seed}")))
    begun = next((run.run.recipe() for run in planned if run.run.exists()), None)
    if begun is not None:  # the runs of a sweep are drawn alike, also those that a newer version starts
        planned = [replace(run, recipe=with_keys_of(begun, run.recipe)) for run in planned]
    for run in planned:
        _require_same_recipe(run)
    require_no_overwriting((_recipe_file(run) for run in planned), [find_recipe(source)], "--run")
    _refuse_foreign_results(folder)
    for run in planned:
        for path in (run.run.folder, _log(run)):
            require_inside(folder, path)
    return planned


def train_missing(
    planned: Sequence[PlannedRun], folder: Path, *, jobs: int, say: Callable[[str], object]
) -> SweepOutcome:
    """Train what is not finished: start it, or resume it where it was started; a run that fails stops no other.

    SIGINT and SIGTERM let the runs save themselves; a second SIGINT does not wait for that.

    Args:
        planned: see `plan_runs`.
        folder: of the sweep.
        jobs: runs at a time. One shows its progress; several write it to ``seed-N.log`` beside their folders.
        say: told what starts and what fails.

    Raises:
        DataError: a data set cannot be used at all.
        UsageError: the folder is in use.
    """
    missing = [run for run in planned if not run.is_finished()]
    for run in {run.variant: run for run in missing}.values():
        find_data(run.recipe.data, need_unlabeled=run.recipe.data.unlabeled.is_set, need_val=True)
    waiting = [(number, run) for number, run in enumerate(missing, 1)]
    failed: list[str] = []
    running: dict[int, tuple[PlannedRun, subprocess.Popen[bytes]]] = {}
    with _in_use(folder, missing), StopSignals() as stop:
        try:
            told = False
            while running or (waiting and not stop.received):
                while waiting and len(running) < jobs and not stop.received:
                    number, run = waiting.pop(0)
                    slot = next(slot for slot in range(jobs) if slot not in running)
                    say(f"run {number} of {len(missing)}: {run.name}")
                    running[slot] = run, _start(run, slot, jobs)
                if stop.received and not told:
                    told = True
                    for _, process in running.values():
                        process.terminate()  # while it is still starting, SIGINT would show a traceback
                time.sleep(_POLL_SECONDS)
                for slot, (run, process) in list(running.items()):
                    if process.poll() is None:
                        continue
                    del running[slot]
                    if process.returncode and not stop.received:
                        failed.append(run.name)
                        log = f", see {_log(run)}" if jobs > 1 else ""
                        say(f"{run.name} failed, exit code {process.returncode}{log}")
        finally:
            for _, process in running.values():  # only after an error; what a killed run has saved is whole
                process.kill()
                process.wait()
    return SweepOutcome(tuple(failed), stop.received)


def _require_same_recipe(planned: PlannedRun) -> None:
    """An extended run is another one, too: its schedule is not that of the others."""
    if not planned.run.exists():
        return
    then = planned.run.recipe()
    changed = set(differing_keys(then, with_measured_range_of(then, planned.recipe))) - resumable_keys()
    if changed:
        raise UsageError(
            f"{planned.run.folder} was started with another recipe; these keys differ: {', '.join(sorted(changed))}",
            "Compare with the recipe it has, or in another --run folder.",
        )


def _refuse_foreign_results(folder: Path) -> None:
    """Where no sweep has begun, files of these names are somebody's images, lists or files of classes."""
    if any(folder.glob("*/seed-*/recipe.yaml")):
        return
    for path in (folder / name for name in (DOCUMENT, TEXT, PICTURE)):
        if os.path.lexists(path):
            raise UsageError(
                f"{path} is there, but no run of a comparison is: it would be replaced",
                "Choose another --run folder, or move the file; nothing was written.",
            )


@contextmanager
def _in_use(folder: Path, missing: Sequence[PlannedRun]) -> Iterator[None]:
    """Keep other sweeps off the folder, and off the runs that a killed sweep has left behind."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(folder, error) from None
    with sole_writer(folder / ".lock", str(folder)):
        for place in {folder, *(run.run.folder.parent for run in missing)}:
            remove_scratch(place)
        for run in missing:
            owner = owner_of(run.run.lock_path)
            if owner is not None:
                raise UsageError(
                    f"{run.run.folder} is being trained by process {owner.pid} on {owner.host}",
                    "Wait for it, or stop it; the run resumes where it stopped.",
                )
        yield


def _start(planned: PlannedRun, slot: int, jobs: int) -> subprocess.Popen[bytes]:
    """Train in a process of its own, from a recipe that stays as it is whatever happens to the one it was made of."""
    recipe = _recipe_file(planned)
    write_atomically(recipe, dump_recipe(planned.recipe).encode())
    arguments = ["train", str(recipe), "--run", str(planned.run.folder), "--continue"]
    log = _log(planned).open("ab") if jobs > 1 else None
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "protoseg_deploy", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env=slot_environment(slot, jobs),
            start_new_session=True,  # Ctrl-C reaches it once, from `train_missing`
        )
    finally:
        if log is not None:
            log.close()


def _recipe_file(planned: PlannedRun) -> Path:
    return planned.run.folder.with_suffix(".yaml")


def _log(planned: PlannedRun) -> Path:
    return planned.run.folder.with_suffix(".log")


def slot_environment(slot: int, jobs: int) -> dict[str, str]:
    """Runs side by side share the cores, and take GPUs in turn where there are several."""
    environment = dict(os.environ)
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // jobs))
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        if len(devices) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    return environment
