"""The folder of a run: resolved recipe, labelled subset, metrics, checkpoints, networks, summary."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from protoseg_deploy.data import DataSets, write_list
from protoseg_deploy.documents import dump_document, read_document, read_lines
from protoseg_deploy.errors import ProtosegError, UsageError, WriteError
from protoseg_deploy.files import remove_scratch, require_inside, write_atomically
from protoseg_deploy.locks import sole_writer
from protoseg_deploy.recipe import (
    ClassTable,
    Recipe,
    differing_keys,
    dump_recipe,
    load_run_recipe,
    value_of,
    with_draw_of,
)
from protoseg_deploy.text import shown
from protoseg_deploy.training.checkpoints import Checkpoints
from protoseg_deploy.training.records import ImageNames, MetricsRecord, RunImages, Summary, finite
from protoseg_deploy.training.stopping import RESUMING

MAY_CHANGE = frozenset(
    {
        "data.cache_mib",
        "data.max_unreadable_share",
        "data.root",
        "model.weights",
        "train.checkpoint_every",
        "train.device",
        "train.eval_batch",
        "train.log_every",
        "train.max_hours",
        "train.max_skipped_steps",
        "train.timeout_s",
        "train.workers",
    }
)
"""Keys that may differ between a run and its resumption: they do not change what is computed."""

_LENGTH = frozenset({"train.steps", "train.extended_from"})


class Run:
    """Paths and files of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_path = folder / "recipe.yaml"
        self.recipe_copy = folder / "recipe.copy.yaml"
        self.best = folder / "best.safetensors"
        self.last = folder / "last.safetensors"
        self.prototypes = folder / "prototypes.safetensors"
        self.metrics_path = folder / "metrics.jsonl"
        self.summary_path = folder / "summary.json"
        self.labeled_list = folder / "labeled.txt"
        self.images_path = folder / "images.json"
        self.unreadable_path = folder / "unreadable.jsonl"
        self.tensorboard = folder / "tensorboard"
        self.lock_path = folder / ".lock"
        self.checkpoints = Checkpoints(folder / "checkpoints")

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.recipe_path.is_file()

    def refuse_to_overwrite(self) -> None:
        """Raises UsageError where the folder already holds something; what a start that was killed left is nothing."""
        if not self.folder.exists():
            return
        self._require_folder()
        begun = {path.name for path in (self.images_path, self.labeled_list, self.recipe_copy, self.lock_path)}
        if any(path.name not in begun and not _is_unfinished(path) for path in self.folder.iterdir()):
            hint = "Choose another --run folder."
            if self.exists():
                hint = "Continue it with --resume, or choose another --run folder."
            raise UsageError(f"{self.folder} already exists and is not empty", hint)

    def _require_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is not a folder", "Choose another --run folder.")

    @contextmanager
    def owned(self, *, take_over: bool = False) -> Iterator[None]:
        """Be the only one that writes into the folder, which is made where there is none.

        Args:
            take_over: of a process on another host, do not wait for its lock to grow old.

        Raises:
            LockedError: another process is training this run.
            UsageError: part of it is a link to somewhere else, or a file in the place of a folder.
        """
        self._require_folder()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(self.folder, error) from None
        try:
            with sole_writer(self.lock_path, str(self.folder), take_over=take_over, take_over_option="--take-over"):
                for path in (self.checkpoints.folder, self.tensorboard, self.metrics_path, self.unreadable_path):
                    require_inside(self.folder, path)
                for folder in (self.checkpoints.folder, self.tensorboard):
                    if folder.exists() and not folder.is_dir():
                        raise UsageError(f"{folder} is a file, not a folder", "Move it away; nothing was changed.")
                for folder in (self.folder, self.checkpoints.folder):
                    remove_scratch(folder)
                yield
        finally:
            with suppress(OSError):  # it is empty where the run was refused before it began
                self.folder.rmdir()

    def start(self, recipe: Recipe, sets: DataSets) -> None:
        """Make the folder and write down what decides the run; the recipe last, so that where it is all is there."""
        self.refuse_to_overwrite()
        write_atomically(self.images_path, dump_document(_images(recipe, sets).model_dump()))
        with self.writing(self.labeled_list):
            write_list(self.labeled_list, sets.labeled, Path(recipe.data.root))
        self.keep_recipe(recipe)

    def keep_recipe(self, recipe: Recipe) -> None:
        """Write down the recipe that the run has from now on, and a copy by which a change by hand is noticed."""
        content = dump_recipe(recipe).encode()
        write_atomically(self.recipe_copy, _COPY_HEAD + content)
        write_atomically(self.recipe_path, content)

    def to_resume(self, recipe: Recipe, extend_to: int | None = None) -> Recipe:
        """The recipe a resumed run goes on with, which is its own but for keys that may change.

        Args:
            recipe: resolved; of an extended run it may still have the steps from before.
            extend_to: lengthen the run to this many steps.

        Raises:
            UsageError: there is no run, it cannot be resumed, or the recipe is not the one it was started with.
        """
        if not self.exists():
            raise UsageError(f"{self.folder} holds no run to resume", "Start one without --resume and --extend-to.")
        then, trained = self.recipe(), bool(self.checkpoints.paths())
        recipe = with_draw_of(then, recipe)
        recipe = with_measured_range_of(then, recipe)
        if self.summary_path.is_file() and not trained:
            raise UsageError(f"{self.folder} is finished and keeps no checkpoint: there is nothing to resume")
        # Before the first checkpoint the initial weights still decide what is computed.
        allowed = MAY_CHANGE if trained else MAY_CHANGE - {"model.weights"}
        self._require_unchanged(then, allowed, extend_to)
        if extend_to is not None:
            self._require_extensible(then, extend_to)
            recipe = _with_length(recipe, extend_to, then.train.planned_steps)
        elif recipe.train.extended_from is None and recipe.train.steps == then.train.extended_from:
            recipe = _with_length(recipe, then.train.steps, then.train.planned_steps)
        changed = set(differing_keys(then, recipe)) - allowed - (_LENGTH if extend_to is not None else set())
        if changed:
            longer = " --extend-to makes it longer." if "train.steps" in changed else ""
            raise UsageError(
                f"{self.folder} was started with another recipe; these keys differ: {', '.join(sorted(changed))}",
                f"Resume with the recipe it has ({self.recipe_path}), or start a new run. "
                f"Only these may change: {', '.join(sorted(allowed))}.{longer}",
            )
        return recipe

    def _require_extensible(self, then: Recipe, extend_to: int) -> None:
        if extend_to <= then.train.steps:
            raise UsageError(
                f"--extend-to {extend_to}: {self.folder} already has {then.train.steps} steps",
                "Give a larger number; --resume finishes an interrupted run.",
            )
        if not self.checkpoints.paths():
            raise UsageError(
                f"{self.folder} keeps no checkpoint: it cannot be extended", "Start a new run with more train.steps."
            )

    def drawn(self) -> Path | None:
        """The list of the labelled subset, which a run that goes on does not draw again; None where it is lost."""
        return self.labeled_list if self.labeled_list.is_file() else None

    def _require_unchanged(self, recipe: Recipe, allowed: frozenset[str], extend_to: int | None) -> None:
        """Raises UsageError where the recipe in the folder is not what was written there; earlier runs have no copy."""
        if not self.recipe_copy.is_file():
            return
        written = load_run_recipe(self.recipe_copy)
        changed = set(differing_keys(written, recipe)) - allowed
        if written.train.steps == extend_to:  # killed between the two when it was extended before
            changed -= _LENGTH
        if changed:
            values = ", ".join(f"{key}: {shown(value_of(written, key))}" for key in sorted(changed))
            raise UsageError(
                f"{self.recipe_path} was changed after the run was started; these keys differ: "
                f"{', '.join(sorted(changed))}",
                f"Put back what the run was started with ({values}), as in {self.recipe_copy}; or start a new run with "
                f"the changed recipe: protoseg train {self.recipe_path} --run NEW. "
                f"Only these may change: {', '.join(sorted(allowed))}.",
            )

    def require_same_images(self, recipe: Recipe, sets: DataSets) -> None:
        """Raises UsageError where the run was started with other images."""
        now = _images(recipe, sets).model_dump()
        hint = "Put it back from a copy of the run, or start a new one: nothing else says which images it learned from."
        try:
            then = read_document(self.images_path, RunImages, hint).model_dump()
        except FileNotFoundError:
            raise UsageError(f"{self.images_path} is missing", hint) from None
        for part in now:
            if then[part] != now[part]:
                raise UsageError(
                    f"{self.folder} was started with other {part} images: {then[part]['count']} then, "
                    f"{now[part]['count']} now, or other names",
                    "Put the images back as they were, or start a new run.",
                )

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Turn what the operating system says of a file of the run into a WriteError."""
        try:
            yield
        except OSError as error:
            raise WriteError(path, error) from None

    @contextmanager
    def saying_what_is_safe(self) -> Iterator[None]:
        """Where a file of the run cannot be written, say what the run still has and how it goes on."""
        try:
            yield
        except WriteError as error:
            made = self.checkpoints.paths()
            safe = f"Checkpoints made before are intact, the newest is {made[-1]}." if made else "Nothing was replaced."
            how = RESUMING if self.exists() else "the same command"
            raise ProtosegError(
                error.message, f"{safe} Free some space or make the folder writable, then continue with {how}."
            ) from None

    def recipe(self) -> Recipe:
        return load_run_recipe(self.recipe_path)

    def append_metrics(self, record: dict[str, Any]) -> None:
        with self.writing(self.metrics_path), self.metrics_path.open("ab") as file:
            file.write(_line(record))

    def metrics(self) -> list[dict[str, Any]]:
        """All records, without one that a killed run has left half written.

        Raises:
            ProtosegError: the file is damaged; line and key are named.
        """
        hint = "Remove the line, whose figures are lost, or put the file back from a copy of the run."
        try:
            records = read_lines(self.metrics_path, MetricsRecord, hint)
        except FileNotFoundError:
            return []
        return [record.model_dump(exclude_unset=True) for record in records]

    def forget_after(self, step: int) -> None:
        """Drop metrics that a resumed run is about to write again, and files that a killed one began."""
        with self.writing(self.folder):
            for path in self.folder.iterdir():
                if _is_unfinished(path):
                    path.unlink(missing_ok=True)
            self.checkpoints.remove_unfinished()
        kept = [record for record in self.metrics() if record["step"] <= step]
        write_atomically(self.metrics_path, b"".join(map(_line, kept)))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.summary_path, dump_document(finite(summary)))

    def is_finished(self, steps: int) -> bool:
        """Whether the summary is that of a run of so many steps; that of an extended one is the old one for a time."""
        return self.summary_path.is_file() and self.summary()["steps"] == steps

    def summary(self) -> dict[str, Any]:
        """What the finished run came to.

        Raises:
            ProtosegError: the run has not finished, or the file is damaged.
        """
        hint = "Remove it and finish the run again with `protoseg train … --resume`, or put it back from a copy."
        try:
            return read_document(self.summary_path, Summary, hint).model_dump()
        except FileNotFoundError:
            raise ProtosegError(
                f"{self.folder} is not a finished run", "Finish it with `protoseg train … --resume`."
            ) from None


_COPY_HEAD = b"# A copy by which a change of recipe.yaml by hand is noticed: leave both as they are.\n"


def _line(record: dict[str, Any]) -> bytes:
    return dump_document(finite(record), indent=None) + b"\n"


def _is_unfinished(path: Path) -> bool:
    """Whether it is a file that was being written when the run was killed; names of earlier versions included."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def _with_length(recipe: Recipe, steps: int, planned: int) -> Recipe:
    length = {"steps": steps, "extended_from": planned}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=length)})


def with_measured_range_of(then: Recipe, recipe: Recipe) -> Recipe:
    """Percentiles that the run has measured are the numbers it measured."""
    if recipe.data.value_range is None or recipe.data.value_range != then.data.value_range_from:
        return recipe
    measured = {"value_range": then.data.value_range, "value_range_from": then.data.value_range_from}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=measured)})


def _images(recipe: Recipe, sets: DataSets) -> RunImages:
    """Number and digest of the names of the images a run learns from, which stay the same when the data move."""
    root = Path(recipe.data.root)
    names = "\n".join(os.path.relpath(sample.image, root) for sample in sets.labeled)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    return RunImages(
        labelled=ImageNames(count=len(sets.labeled), sha256=digest),
        unlabelled=ImageNames(count=len(sets.unlabeled), sha256=sets.unlabeled.digest),
    )


def resolved_recipe(recipe: Recipe, classes: ClassTable) -> Recipe:
    """The recipe with what lies outside it pulled in: absolute paths, class names and colours.

    A run's recipe works from any working directory.
    """
    names, colors = list(classes.names), list(classes.colors)
    if classes.binary:
        names, colors = names[1:], colors[1:]
    root = Path(recipe.data.root).expanduser().absolute()
    data = recipe.data.model_copy(update={"root": str(root), "classes": names, "colors": colors})
    weights = recipe.model.weights
    if weights not in {"pretrained", "none"}:
        weights = str(Path(weights).expanduser().absolute())
    model = recipe.model.model_copy(update={"weights": weights})
    return recipe.model_copy(update={"data": data, "model": model})
