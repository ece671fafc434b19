"""Folders of a model repository on disk: read, made and added to, so that Triton never sees half a model.

Triton takes every folder of a repository for a model, hidden ones too, and does not start where one of them is none. So
a new model is made beside the repository and renamed into it. Inside the folder of a model, folders that are no numbers
do no harm: a new version is made there, and takes its number when it is complete.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.service import PARAMETER, ServiceFacts
from protoseg_deploy.errors import ProtosegError, UsageError, WriteError
from protoseg_deploy.files import (
    is_scratch,
    remove_scratch,
    require_inside,
    scratch_path,
    sync_folder,
    write_atomically,
)
from protoseg_deploy.locks import sole_writer
from protoseg_deploy.serving.triton.config import DECODE_SUFFIX, ENSEMBLE_SUFFIX, kind_of, versions_of
from protoseg_deploy.serving.triton.library import CONFIG_FILE, config_text, parse_config

Content = bytes | Path
"""Of a file: what is written, or the file that is copied."""
_LOCK = ".protoseg.lock"
_KINDS = {"": "a model of a bundle", DECODE_SUFFIX: "the decoder of a model", ENSEMBLE_SUFFIX: "an ensemble"}


@dataclass(frozen=True)
class ModelFolder:
    """The folder of a model as it is on disk."""

    path: Path
    config: Any = None
    """``ModelConfig``; None: there is no such folder yet."""
    versions: Mapping[int, ServiceFacts] | None = None
    """Those whose folders are there, in order."""

    @classmethod
    def read(cls, path: Path, suffix: str = "") -> "ModelFolder":
        """What is there.

        Args:
            path: of the folder.
            suffix: `DECODE_SUFFIX`, `ENSEMBLE_SUFFIX`, or none: which of the models around one it is to be.

        Raises:
            UsageError: it was not made by this program or is one of another kind, or is reached through a link.
            ProtosegError: its configuration is damaged.
        """
        require_inside(path.parent, path)
        if not path.exists():
            return cls(path, None, {})
        place = path / CONFIG_FILE
        try:
            config = parse_config(place.read_bytes(), str(place))
        except (FileNotFoundError, NotADirectoryError):
            raise _foreign(path) from None
        except OSError as error:
            raise ProtosegError(f"cannot read {place}: {error.strerror or error}") from None
        found = kind_of(config)
        if config.name != path.name or found is None:
            raise _foreign(path)
        if found != suffix:
            raise UsageError(
                f"{path} is {_KINDS[found]}, not {_KINDS[suffix]}: it is not replaced",
                "Choose another --name, or remove the folder.",
            )
        noted = versions_of(config, str(place))
        numbers = sorted(int(entry.name) for entry in path.iterdir() if entry.is_dir() and entry.name.isdecimal())
        unknown = [number for number in numbers if number not in noted]
        if PARAMETER in config.parameters and unknown:
            raise UsageError(
                f"{path / str(unknown[0])} is a version that `protoseg serve-repo` has not made",
                "Move it away, or choose another --name.",
            )
        return cls(path, config, {number: noted[number] for number in numbers if number in noted})

    def changed(self, files: Mapping[str, Content]) -> list[str]:
        """Names of the files that are not there, or are others."""
        return [name for name, wanted in files.items() if not _is_same(self.path / name, wanted)]

    def write(self, files: Mapping[str, Content], version: int) -> None:
        """Make the folder, or add a version to it; files of a version that is there already are replaced one by one.

        Args:
            files: by their paths in the folder; its configuration is among them.
            version: the one that `files` are of.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
        """
        try:
            if self.config is None:
                self._make(files)
            else:
                self._add(files, version)
        except OSError as error:
            raise WriteError(Path(error.filename or self.path), error) from None

    def _make(self, files: Mapping[str, Content]) -> None:
        staging = _staging(self.path.parent)
        try:
            _fill(staging, files)
            staging.rename(self.path)
            sync_folder(self.path.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _add(self, files: Mapping[str, Content], version: int) -> None:
        """The configuration knows a version before it is there, and calls it the latest only then."""
        own = f"{version}/"
        if not (self.path / own).is_dir():
            announced = type(self.config)()
            announced.CopyFrom(self.config)
            key = f"{PARAMETER}.{version}"
            new = parse_config(_bytes(files[CONFIG_FILE]), CONFIG_FILE)
            if key in new.parameters:
                announced.parameters[key].CopyFrom(new.parameters[key])
            write_atomically(self.path / CONFIG_FILE, config_text(announced))
            staging = scratch_path(self.path / str(version))
            try:
                _fill(staging, {name.removeprefix(own): files[name] for name in files if name.startswith(own)})
                staging.rename(self.path / own)
                sync_folder(self.path)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        for name in sorted(self.changed(files), key=lambda name: name == CONFIG_FILE):
            write_atomically(self.path / name, _bytes(files[name]))


def has_ensemble(repository: Path, name: str) -> bool:
    """Whether a model has an ensemble that this program has made.

    Raises:
        ProtosegError: the configuration of that is damaged.
    """
    try:
        return ModelFolder.read(repository / (name + ENSEMBLE_SUFFIX), ENSEMBLE_SUFFIX).config is not None
    except UsageError:
        return False


@contextmanager
def writing(repository: Path) -> Iterator[None]:
    """Hold a repository for the time of the block; what killed processes have left is removed.

    Raises:
        LockedError: another process does not let go of it.
        WriteError: it cannot be made or written.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(repository, error) from None
    with sole_writer(repository / _LOCK, str(repository), wait_s=60):
        remove_scratch(repository)
        for left in repository.parent.glob(f".{repository.name}.*.tmp"):
            if is_scratch(left.name) and left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
        for folder in repository.iterdir():
            if (folder / CONFIG_FILE).is_file() and not folder.is_symlink():
                remove_scratch(folder)
        yield


def _staging(repository: Path) -> Path:
    """A new folder that can be renamed into a repository: beside it, or inside where it is a file system of its own."""
    place = repository.resolve()
    beside = scratch_path(place)
    try:
        beside.mkdir()
        if beside.stat().st_dev == place.stat().st_dev:
            return beside
        beside.rmdir()
    except OSError:  # its parent cannot be written
        pass
    inside = scratch_path(place / place.name)
    inside.mkdir()
    return inside


def _fill(folder: Path, files: Mapping[str, Content]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
        else:
            shutil.copyfile(content, target)
        with target.open("rb") as file:
            os.fsync(file.fileno())
    for place, _, _ in os.walk(folder):
        sync_folder(Path(place))


def _is_same(path: Path, wanted: Content) -> bool:
    if not path.is_file():
        return False
    if isinstance(wanted, bytes):
        return path.stat().st_size == len(wanted) and path.read_bytes() == wanted
    return file_sha256(path) == file_sha256(wanted)


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _foreign(path: Path) -> UsageError:
    return UsageError(
        f"{path} is no model that `protoseg serve-repo` has made: it is not replaced",
        "Choose another --name or --out.",
    )
