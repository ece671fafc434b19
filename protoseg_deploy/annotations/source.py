"""What a reader of a format is: a source with a job for each image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from protoseg_deploy.annotations.detecting import Look
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.shapes import AnnotatedImage, DeclaredClass, FoundImage, Notes, Problem

Order = Literal["file", "area"]
"""Overlaps: later shapes of a file over earlier ones, or smaller ones over larger ones."""


class Job(ABC):
    """The annotations of one image: small, and sent to other processes, which read and draw them."""

    file: Path
    """The annotation file."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The image, as messages name it."""

    @abstractmethod
    def locate(self, finder: ImageFinder) -> FoundImage:
        """The image file.

        Raises:
            BadRecordError: there is none.
        """

    @abstractmethod
    def fingerprint(self) -> bytes:
        """What changes with the annotations of the image.

        Raises:
            OSError: a file cannot be read.
        """

    @abstractmethod
    def labels(self) -> set[str]:
        """The labels that occur; of a record that cannot be read, none. Asked where a source declares no classes."""

    @abstractmethod
    def read(self, found: FoundImage, finder: ImageFinder, notes: Notes) -> AnnotatedImage:
        """Size and shapes.

        Args:
            found: the image.
            finder: for its size, where the annotations do not say it.
            notes: single records that cannot be used are added here.

        Raises:
            BadRecordError: nothing of it can be used.
        """


@dataclass(frozen=True)
class Source:
    """Opened annotations."""

    format: str
    jobs: Callable[[], Iterator[Job | Problem]]
    """In a fixed order; can be called again."""
    order: Order
    image_roots: tuple[Path, ...]
    """Where images are looked for unless `--images` says it."""
    total: int | None = None
    """How many jobs there are, where that is known."""
    classes: tuple[DeclaredClass, ...] | None = None
    """In the order of their indices; None: labels that occur."""
    ignored: frozenset[str] = frozenset()
    """Labels that become 255."""
    unlabeled: Literal["background", "ignore"] = "background"
    """What pixels are that no shape covers."""


Reader = Callable[[Look], AbstractContextManager[Source]]
"""Opens a file or folder; raises `DataError` where the annotations are not what they should be."""
