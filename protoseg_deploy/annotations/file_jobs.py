"""What formats with a file for each image have in common."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg_deploy.annotations.shapes import BadRecordError
from protoseg_deploy.annotations.source import Job
from protoseg_deploy.documents import as_utf8
from protoseg_deploy.files import open_regular, read_at_most

_MOST_BYTES = 1 << 29


@dataclass(frozen=True)
class FileJob(Job):
    """An annotation file of one image."""

    file: Path
    root: Path
    """The folder of all."""

    @property
    def relative(self) -> Path:
        """Below the folder of all."""
        return self.file.relative_to(self.root) if self.file.is_relative_to(self.root) else Path(self.file.name)

    @property
    def name(self) -> str:
        return self.relative.as_posix()

    def fingerprint(self) -> bytes:
        return read_bytes(self.file)


@dataclass(frozen=True)
class JsonJob(FileJob):
    """A JSON file of one image."""

    def labels(self) -> set[str]:
        try:
            return {label for label in self.labels_of(read_json(self.file)) if isinstance(label, str) and label.strip()}
        except (BadRecordError, LookupError, TypeError, AttributeError, RecursionError):  # told when it is read
            return set()

    @abstractmethod
    def labels_of(self, document: Any) -> Iterator[Any]:
        """Labels of a document of whatever shape."""


def read_bytes(path: Path) -> bytes:
    """A whole annotation file.

    Raises:
        BadRecordError: it cannot be read, or is larger than any annotations of one image.
    """
    try:
        with open_regular(path) as file:
            content = read_at_most(file, _MOST_BYTES)
    except OSError as error:
        raise BadRecordError(f"cannot be read: {error.strerror or error}") from None
    if content is None:
        raise BadRecordError(f"larger than {_MOST_BYTES >> 20} MiB: no annotations of one image")
    return content


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        BadRecordError: it cannot be read or is no JSON.
    """
    try:
        return json.loads(as_utf8(read_bytes(path)))
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise BadRecordError(f"not valid JSON at {place}: {error.msg}; was it cut off?") from None
    except UnicodeDecodeError:
        raise BadRecordError("not JSON: no text in UTF-8") from None
    except RecursionError:
        raise BadRecordError("nested too deeply") from None
    except ValueError as error:
        raise BadRecordError(f"not valid JSON: {error}") from None
