"""Checkpoints to resume from: written whole or not at all, the newest readable one is used."""

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.models import write_atomically

_NAME = re.compile(r"step-(\d{8})\.pt")


class Checkpoints:
    """The ``checkpoints`` folder of a run; keeps the newest two.

    A checkpoint is a dictionary of tensors and plain values, so that it loads with ``weights_only=True``.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` finished steps, then drop checkpoints older than the newest `keep`."""
        buffer = io.BytesIO()
        torch.save(state, buffer)
        path = self.folder / f"step-{step:08d}.pt"
        write_atomically(path, buffer.getvalue())
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name))

    def load_newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest readable state, and a line about each newer one that is damaged.

        Raises:
            ProtosegError: there are checkpoints, but none can be read.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                return torch.load(path, map_location="cpu", weights_only=True), damaged
            except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile):
                damaged.append(f"{path} is damaged and cannot be read")
        if damaged:
            raise ProtosegError(
                "no checkpoint to resume from:\n" + "\n".join(f"  {line}" for line in damaged),
                "Start again in another --run folder, or put an intact checkpoint there.",
            )
        return None, damaged
