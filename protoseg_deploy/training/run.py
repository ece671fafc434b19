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
    dump_recipe,
    recipe_from_dict,
)
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.training.checkpoints import Checkpoints
from protoseg_deploy.training.records import ImageNames, MetricsRecord, RunImages, Summary, finite
from protoseg_deploy.training.stopping import RESUMING


class Run(RunFolder):
    """A run folder that is written to; reading it allows for a process that was killed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.checkpoints = Checkpoints(self.checkpoints_folder)

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
                trackers = (self.tensorboard, self.csv_path, self.mlflow_folder, self.wandb_folder)
                for path in (self.checkpoints.folder, self.metrics_path, self.unreadable_path, *trackers):
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
        """Write down the recipe that the run has from now on, and a copy by which a change by hand is noticed.

        Raises:
            RecipeError: a value of it could not be read again; the recipe so far is left as it is.
        """
        recipe_from_dict(recipe.model_dump(mode="json"), str(self.recipe_path))
        content = dump_recipe(recipe).encode()
        write_atomically(self.recipe_copy, _COPY_HEAD + content)
        write_atomically(self.recipe_path, content)

    def drawn(self) -> Path | None:
        """The list of the labelled subset, which a resumed run does not draw again; None where it is lost."""
        return self.labeled_list if self.labeled_list.is_file() else None

    def require_same_images(self, recipe: Recipe, sets: DataSets) -> None:
        """Raises UsageError where the run was started with other images."""
        now = _images(recipe, sets).model_dump()
        hint = "Put it back from a copy of the run, or start a new one: its labelled images are unknown otherwise."
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
        """Where a file of the run cannot be written, say what the run still has and how to resume."""
        try:
            yield
        except WriteError as error:
            made = self.checkpoints.paths()
            safe = f"Checkpoints made before are intact, the newest is {made[-1]}." if made else "Nothing was replaced."
            how = RESUMING if self.exists() else "the same command"
            raise ProtosegError(
                error.message, f"{safe} Free some space or make the folder writable, then continue with {how}."
            ) from None

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
        """The result of the finished run.

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
