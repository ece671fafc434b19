"""Checkpoints to resume from: written whole or not at all, the newest undamaged one is used."""

import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from protoseg_deploy.errors import ProtosegError, WriteError
from protoseg_deploy.files import open_regular, write_atomically

_NAME = re.compile(r"step-(\d{8})\.pt")

DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    AssertionError,
)
"""What reading a torn or altered archive ends in."""


class Checkpoints:
    """The ``checkpoints`` folder of a run; keeps the newest two.

    A checkpoint is a dictionary of tensors and plain values, so that it loads with ``weights_only=True``. Its file is
    an archive with a checksum of every tensor.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` finished steps, then drop all but the newest `keep` up to that step.

        The state goes to the file tensor by tensor: there is no second copy of it in memory. Checkpoints of later steps
        are damaged ones that a resumed run has come back from.

        Raises:
            WriteError: the disk is full, or the folder of the run is gone or cannot be written; earlier checkpoints are
                as they were.
        """
        path = self.folder / f"step-{step:08d}.pt"
        try:
            self.folder.mkdir(exist_ok=True)  # not its parents: where the run is gone, a checkpoint alone is no run
            self.remove_unfinished()
        except OSError as error:
            raise WriteError(path, error) from None
        write_atomically(path, lambda file: _write(state, file))
        made = self.paths()
        kept = [other for other in made if other.name <= path.name][-self.keep :]
        for other in made:
            if other not in kept:
                with suppress(OSError):  # a checkpoint too many does no harm
                    other.unlink()
        return path

    def paths(self) -> list[Path]:
        """Oldest first."""
        return sorted(path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name))

    def remove_unfinished(self) -> None:
        """Remove what a killed run had begun to write."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def load_newest(
        self, check: Callable[[object, Path], object] = lambda state, path: None
    ) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest undamaged state, and a line about each newer one that is damaged.

        Args:
            check: raises ValueError for a state, of the file, that a run cannot take up: as good as damaged.

        Raises:
            ProtosegError: there are checkpoints, but none can be read.
        """
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                state = _read(path)
                check(state, path)
                return state, damaged
            except DAMAGE as error:
                damaged.append(f"{path} is damaged ({_first_line(error)})")
        if damaged:
            raise ProtosegError(
                "no checkpoint to resume from:\n" + "\n".join(f"  {line}" for line in damaged),
                "Start again in another --run folder, or put an intact checkpoint there.",
            )
        return None, damaged


def _write(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # Closing its archive, torch trips over the file that could not be written before.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _read(path: Path) -> dict[str, Any]:
    """Torch does not look at the checksums it writes, and of an entry marked as a folder it makes arbitrary numbers."""
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        wrong = archive.testzip()
        folders = [entry.filename for entry in archive.infolist() if entry.external_attr]
    if wrong is not None or folders:
        raise zipfile.BadZipFile(f"{wrong or folders[0]} is not what was written")
    with open_regular(path) as file:
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
