"""What the folder of a run holds and where: read by everything that starts from a trained network."""

from pathlib import Path
from typing import Self

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.recipe import Recipe, load_run_recipe

RECIPE_FILE = "recipe.yaml"


class RunFolder:
    """Paths of a run; see `protoseg_deploy.training.run.Run` for what is written there.

    Args:
        folder: there or not.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipe_path = folder / RECIPE_FILE
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
        self.csv_path = folder / "metrics.csv"
        self.mlflow_folder = folder / "mlflow"
        self.wandb_folder = folder / "wandb"
        self.checkpoints_folder = folder / "checkpoints"
        self.lock_path = folder / ".lock"

    @classmethod
    def around(cls, path: Path) -> Self:
        """The run that a path means: a run folder, or a network file inside one."""
        return cls(path if path.is_dir() else path.parent)

    def exists(self) -> bool:
        """Whether a run was ever started here."""
        return self.recipe_path.is_file()

    def recipe(self) -> Recipe:
        """The recipe as the run has it.

        Raises:
            UsageError: there is none, or it cannot be read.
        """
        return load_run_recipe(self.recipe_path)

    def network(self, which: str) -> Path:
        """Where the ``best`` or the ``last`` network lies once there is one."""
        return self.best if which == "best" else self.last


def network_file(path: Path, which: str = "best") -> Path:
    """The network file a path means: itself, or ``best``/``last`` of a run folder.

    Raises:
        ProtosegError: there is none.
    """
    if path.is_file():
        return path
    run = RunFolder(path)
    file = run.network(which)
    if file.is_file():
        return file
    if not path.is_dir():
        if path.exists():
            raise ProtosegError(f"{path} is neither a run folder nor a regular file")
        raise ProtosegError(f"no run folder and no network file at {path}")
    others = [other.name for other in (run.best, run.last) if other.is_file()]
    if others:
        raise ProtosegError(f"{path} has no {file.name}, but {', '.join(others)}")
    raise ProtosegError(
        f"{path} holds no {file.name}: no run, or none that has reached its first evaluation",
        "Train it with `protoseg train RECIPE --run DIR`.",
    )
