"""Masks of a shard: PNGs in a folder, or in one tar that WebDataset reads. Equal class maps give equal bytes."""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.evaluation.class_maps import as_indices
from protoseg_deploy.evaluation.shards.stores import Store
from protoseg_deploy.recipe import Color

INDEX = "index"
"""Folder of masks below the results."""
PACKED = "masks"
"""Folder of tars below the results."""


def encode_mask(class_map: NDArray[np.integer], colors: Sequence[Color]) -> bytes:
    """A PNG of class indices.

    Args:
        class_map: ``[H,W]`` class indices.
        colors: RGB 0..255 in class order.

    Returns:
        Up to 256 classes a palette PNG in the colours of the classes, whose values are the indices; above, 16-bit grey.
    """
    picture = Image.fromarray(as_indices(class_map, len(colors)))
    if len(colors) <= 256:
        picture.putpalette(np.array(colors, np.uint8).tobytes())
    content = BytesIO()
    picture.save(content, "PNG", compress_level=1)
    return content.getvalue()


class MaskWriter(Protocol):
    """Takes the masks of a shard, in order."""

    def add(self, name: str, content: bytes) -> tuple[str, str | None]:
        """Write one mask.

        Args:
            name: relative, ending in .png.
            content: see `encode_mask`.

        Returns:
            The file below the results that holds it, and its name in that file if that is a tar.

        Raises:
            WriteError: it cannot be written.
        """
        ...


@contextmanager
def open_masks(store: Store, shard: int, *, pack: bool) -> Iterator[MaskWriter]:
    """Where the masks of a shard go; a tar appears at the end of the block, PNGs at once.

    Raises:
        WriteError: it cannot be written.
    """
    if not pack:
        yield _Folder(store)
        return
    name = f"{PACKED}/shard-{shard:05}.tar"
    with store.writing(name) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        yield _Tar(archive, name)


class _Folder:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, name: str, content: bytes) -> tuple[str, None]:
        target = f"{INDEX}/{name}"
        self._store.write(target, content, sync=False)  # one by one on the disk would take longer than the network
        return target, None


class _Tar:
    def __init__(self, archive: tarfile.TarFile, name: str) -> None:
        self._archive, self._name = archive, name

    def add(self, name: str, content: bytes) -> tuple[str, str]:
        entry = tarfile.TarInfo(name)  # of nobody, and of no time
        entry.size = len(content)
        file: BinaryIO | Any = BytesIO(content)
        self._archive.addfile(entry, file)
        return self._name, name
