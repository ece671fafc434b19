"""The folder `predict` writes: one writer, pictures that appear whole, and a list of what failed."""

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.documents import dump_document
from protoseg_deploy.errors import WriteError
from protoseg_deploy.evaluation.prediction_plan import FAILURES, KINDS
from protoseg_deploy.evaluation.result_marks import Mark
from protoseg_deploy.files import remove_scratch, require_inside, scratch_path
from protoseg_deploy.locks import sole_writer

_LOCK = ".predict.lock"
SCRATCH = ".predict.scratch"


class OutputFolder:
    """Where results go, while this process alone writes there; see `open_output`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scratch = path / SCRATCH
        self._folders: set[Path] = set()
        self._failures: BinaryIO | None = None

    def targets(self, name: Path) -> dict[str, Path]:
        """Where the pictures of an image lie, by kind."""
        return {kind: self.path / kind / name for kind in KINDS}

    def write(self, name: Path, pictures: Mapping[str, NDArray[Any]], mark: Mark) -> dict[str, Path]:
        """Write ``KIND/NAME`` for every picture: all are complete before the first gets its name.

        Nothing is flushed to the disk: a killed program leaves no torn picture, a power cut may, and then the mark at
        its head has no end to go with.

        Args:
            name: relative path ending in .png.
            pictures: of every kind, ``[H,W]`` or ``[H,W,3]``.
            mark: put into each.

        Returns:
            Where they are, by kind.

        Raises:
            WriteError: it cannot be written; earlier files are as they were.
        """
        targets = self.targets(name)
        written: dict[str, Path] = {}  # that have no name yet
        target, chunk = self._scratch, mark.chunk()
        try:
            for kind, target in targets.items():
                self._make_folder(target.parent)
                if target.is_dir() and not target.is_symlink():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                scratch = scratch_path(self._scratch / kind)
                with scratch.open("xb") as file:
                    written[kind] = scratch
                    # level 1: overlays in a quarter of the default's time, a tenth larger
                    Image.fromarray(pictures[kind]).save(file, "PNG", compress_level=1, pnginfo=chunk)
            for kind, target in targets.items():
                written[kind].replace(target)
                del written[kind]
        except OSError as error:
            raise WriteError(target, error) from None
        finally:
            for scratch in written.values():
                with suppress(OSError):
                    scratch.unlink(missing_ok=True)
        return targets

    def note_failure(self, image: Path, kind: str, reason: str) -> None:
        """Add a line to the list of failures, at once.

        Raises:
            WriteError: it cannot be written.
        """
        line = dump_document({"image": str(image), "kind": kind, "reason": reason}, indent=None) + b"\n"
        try:
            if self._failures is None:
                self._failures = (self.path / FAILURES).open("xb")
            self._failures.write(line)
            self._failures.flush()
        except OSError as error:
            raise WriteError(self.path / FAILURES, error) from None

    def _make_folder(self, folder: Path) -> None:
        if folder not in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
            self._folders.add(folder)

    def _open(self) -> None:
        require_inside(self.path, self._scratch)
        try:
            self._scratch.mkdir(exist_ok=True)
            remove_scratch(self._scratch)
            (self.path / FAILURES).unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(Path(error.filename or self.path), error) from None

    def _close(self) -> None:
        with suppress(OSError):  # a full disk, which the error that led here has told
            if self._failures is not None:
                self._failures.close()
        with suppress(OSError, WriteError):  # foreign files in it keep the folder
            remove_scratch(self._scratch)
            self._scratch.rmdir()


@contextmanager
def open_output(path: Path) -> Iterator[OutputFolder]:
    """Make a folder of results and be the only one who writes to it for the time of the block.

    What killed calls have left unfinished is removed, and so is the list of failures of the call before.

    Raises:
        LockedError: another process writes there; it is named.
        UsageError: the place for unfinished pictures is a link.
        WriteError: the folder cannot be made or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error) from None
    with sole_writer(path / _LOCK, str(path)):
        output = OutputFolder(path)
        output._open()
        try:
            yield output
        finally:
            output._close()
