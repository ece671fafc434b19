"""Small grey images of many files, each decoded once: what later runs ask for again lies in the user's cache."""

import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data.formats import decoding
from protoseg_deploy.data.images import read_values
from protoseg_deploy.data.pool import cache_folder
from protoseg_deploy.data.sources import open_source
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading

SIDE = 32
"""Pixels of a thumbnail."""
Progress = Callable[[int, int], None]
"""Called with the number of images that are done and the number there are."""
_AT_ONCE = 512
_VERSION = 1
_TABLE = """
create table if not exists thumbnails (
    path blob, reading text, bytes integer, modified_ns integer, pixels blob, fault text, primary key (path, reading)
) without rowid
"""


@dataclass(frozen=True)
class Thumbnails:
    """Of some images, in their order."""

    pixels: NDArray[np.uint8]
    """``[N,SIDE,SIDE]``; zeros for images that cannot be read."""
    faults: tuple[str, ...]
    """For each image why it cannot be read; empty: it can."""


def read_thumbnails(paths: Sequence[Path], reading: ImageReading, progress: Progress | None = None) -> Thumbnails:
    """Read, shrink and grey images, on all cores.

    What is done is kept: interrupted, the same call goes on where it was. An image that changes is read again.

    Args:
        paths: image files.
        reading: how they are read; its range of values does not matter.
        progress: called now and then.
    """
    pixels = np.zeros((len(paths), SIDE, SIDE), np.uint8)
    faults = [""] * len(paths)
    done = 0
    reading = reading.model_copy(update={"value_range": None})
    with closing(_Store(repr(reading))) as store, ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            some = range(first, min(len(paths), first + _AT_ONCE))
            known = store.get([paths[index] for index in some])
            missing = [index for index in some if paths[index] not in known]
            found = dict(zip(missing, pool.map(lambda index: _look(paths[index], reading), missing), strict=True))
            store.put({paths[index]: each for index, each in found.items()})
            for index in some:
                each = found.get(index) or known[paths[index]]
                pixels[index], faults[index] = each.pixels, each.fault
            done += len(some)
            if progress is not None:
                progress(done, len(paths))
    return Thumbnails(pixels, tuple(faults))


@dataclass(frozen=True)
class _Look:
    pixels: NDArray[np.uint8]
    fault: str = ""


def _look(path: Path, reading: ImageReading) -> _Look:
    try:
        return _Look(_thumbnail(path, reading))
    except DataError as error:
        return _Look(np.zeros((SIDE, SIDE), np.uint8), error.message)


def _thumbnail(path: Path, reading: ImageReading) -> NDArray[np.uint8]:
    if reading.bands is None:
        with open_source(path, "image", exact=False) as source:
            image = source.image
            if image is not None and image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
                with decoding(path, "image"):
                    image.draft("L", (2 * SIDE, 2 * SIDE))  # decoded at an eighth of its size, where that is enough
                    return source.turned(np.array(_shrunk(image)), reading.exif)
    values = read_values(path, reading)
    if values.dtype != np.uint8:
        values = _stretched(values)
    return np.array(_shrunk(Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)))


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Values of more than 8 bits from their darkest to their brightest: what is alike does not depend on the range."""
    finite = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = finite.min(), finite.max()
    stretched: NDArray[np.uint8] = ((finite - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)
    return stretched


def _shrunk(image: Image.Image) -> Image.Image:
    return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)


class _Store:
    """Thumbnails in a file of SQLite; without one where the cache cannot be used."""

    def __init__(self, reading: str) -> None:
        self._reading = reading
        self._connection: sqlite3.Connection | None = None
        folder = cache_folder()
        with suppress(OSError, sqlite3.Error):
            folder.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(folder / f"thumbnails-{_VERSION}.sqlite", timeout=10)
            connection.execute(_TABLE)
            self._connection = connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def get(self, paths: Sequence[Path]) -> dict[Path, _Look]:
        """What is known of files that are as they were."""
        if self._connection is None:
            return {}
        names = {os.fsencode(path.absolute()): path for path in paths}
        marks = ",".join("?" * len(names))
        query = (
            f"select path, bytes, modified_ns, pixels, fault from thumbnails where reading = ? and path in ({marks})"  # noqa: S608 - question marks alone
        )
        try:
            rows = self._connection.execute(query, [self._reading, *names]).fetchall()
        except sqlite3.Error:  # damaged, or locked for long
            self._connection = None
            return {}
        found = {}
        for name, size, modified_ns, pixels, fault in rows:
            if _identity(names[name]) == (size, modified_ns) and len(pixels) == SIDE * SIDE:
                shaped = np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE)
                found[names[name]] = _Look(shaped, fault)
        return found

    def put(self, looks: dict[Path, _Look]) -> None:
        if self._connection is None or not looks:
            return
        rows = [
            (os.fsencode(path.absolute()), self._reading, *_identity(path), look.pixels.tobytes(), look.fault)
            for path, look in looks.items()
        ]
        try:
            with self._connection:
                self._connection.executemany("insert or replace into thumbnails values (?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error:  # a full disk, for one: only time is lost
            self._connection = None


def _identity(path: Path) -> tuple[int, int]:
    """Size and time of modification of a file; -1 where there is none."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
