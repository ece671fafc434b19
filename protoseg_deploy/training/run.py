"""The folder of a run: resolved recipe, labelled subset, metrics, checkpoints, networks, summary."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from protoseg_deploy.data import DataSets, write_list
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.models import write_atomically
from protoseg_deploy.recipe import ClassTable, Recipe, differing_keys, dump_recipe, load_recipe
from protoseg_deploy.training.checkpoints import Checkpoints

MAY_CHANGE = frozenset(
    {"train.device", "train.workers", "train.log_every", "train.checkpoint_every", "data.root", "model.weights"}
)
"""Keys that may differ between a run and its resumption: they do not change what is computed."""


class Run:
    """Paths and files of one run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_path = folder / "recipe.yaml"
        self.best = folder / "best.safetensors"
        self.last = folder / "last.safetensors"
        self.prototypes = folder / "prototypes.safetensors"
        self.metrics_path = folder / "metrics.jsonl"
        self.summary_path = folder / "summary.json"
        self.labeled_list = folder / "labeled.txt"
        self.images_path = folder / "images.json"
        self.checkpoints = Checkpoints(folder / "checkpoints")

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.recipe_path.is_file()

    def refuse_to_overwrite(self) -> None:
        """Raises UsageError where the folder already holds something."""
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            hint = "Choose another --run folder."
            if self.exists():
                hint = "Continue it with --resume, or choose another --run folder."
            raise UsageError(f"{self.folder} already exists and is not empty", hint)

    def start(self, recipe: Recipe, sets: DataSets) -> None:
        """Make the folder and write down what decides the run; the recipe last, so that where it is all is there."""
        self.refuse_to_overwrite()
        write_atomically(self.images_path, json.dumps(_images(recipe, sets), indent=2).encode())
        write_list(self.labeled_list, sets.labeled, Path(recipe.data.root))
        write_atomically(self.recipe_path, dump_recipe(recipe).encode())

    @classmethod
    def reopen(cls, folder: Path, recipe: Recipe, sets: DataSets) -> "Run":
        """A run to be resumed with the same recipe and the same images.

        Raises:
            UsageError: there is no run there, or the recipe or the images are not those it was started with.
        """
        run = cls(folder)
        if not run.exists():
            raise UsageError(f"{folder} holds no run to resume", "Leave out --resume to start one.")
        if run.summary_path.is_file() and not run.checkpoints.paths():
            raise UsageError(f"{folder} is finished and keeps no checkpoint: there is nothing to resume")
        # Before the first checkpoint the initial weights still decide what is computed.
        allowed = MAY_CHANGE if run.checkpoints.paths() else MAY_CHANGE - {"model.weights"}
        changed = [key for key in differing_keys(run.recipe(), recipe) if key not in allowed]
        if changed:
            raise UsageError(
                f"{folder} was started with another recipe; these keys differ: {', '.join(sorted(changed))}",
                f"Resume with the recipe it has ({run.recipe_path}), or start a new run. "
                f"Only these may change: {', '.join(sorted(allowed))}.",
            )
        run._require_same_images(_images(recipe, sets))
        write_atomically(run.recipe_path, dump_recipe(recipe).encode())
        return run

    def _require_same_images(self, now: dict[str, Any]) -> None:
        then = json.loads(self.images_path.read_text(encoding="utf-8"))
        for part in now:
            if then.get(part) != now[part]:
                raise UsageError(
                    f"{self.folder} was started with other {part} images: {then[part]['count']} then, "
                    f"{now[part]['count']} now, or other names",
                    "Put the images back as they were, or start a new run.",
                )

    def recipe(self) -> Recipe:
        return load_recipe(self.recipe_path)

    def append_metrics(self, record: dict[str, Any]) -> None:
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        if not self.metrics_path.is_file():
            return []
        records = []
        for line in self.metrics_path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:  # the last line of a killed run
                continue
        return records

    def forget_after(self, step: int) -> None:
        """Drop metrics that a resumed run is about to write again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        write_atomically(self.metrics_path, "".join(json.dumps(record) + "\n" for record in kept).encode())

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_atomically(self.summary_path, json.dumps(summary, indent=2).encode())

    def summary(self) -> dict[str, Any]:
        """What the finished run came to.

        Raises:
            ProtosegError: the run has not finished.
        """
        if not self.summary_path.is_file():
            raise ProtosegError(f"{self.folder} is not a finished run", "Finish it with `protoseg train … --resume`.")
        return dict(json.loads(self.summary_path.read_text(encoding="utf-8")))


def _images(recipe: Recipe, sets: DataSets) -> dict[str, dict[str, Any]]:
    """Number and digest of the names of the images a run learns from, relative to the data root."""
    root = Path(recipe.data.root)
    parts = {"labelled": [sample.image for sample in sets.labeled], "unlabelled": list(sets.unlabeled)}
    document = {}
    for part, paths in parts.items():
        names = "\n".join(os.path.relpath(path, root) for path in paths)
        document[part] = {"count": len(paths), "sha256": hashlib.sha256(names.encode()).hexdigest()}
    return document


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
