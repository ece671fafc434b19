"""Images that belong together: of one scene, folder, time, or with a common part in their names."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from protoseg_deploy.data.similarity import find_similar, groups_of, joined
from protoseg_deploy.data.sources import open_source
from protoseg_deploy.errors import DataError, UsageError

_SECONDS_APART = 60.0
_TAKEN = (ExifTags.Base.DateTimeOriginal, ExifTags.Base.DateTime)


def group_images(paths: Sequence[Path], pixels: NDArray[np.uint8], group_by: str | None) -> list[int]:
    """For each image the number of its group; scenes are never parted.

    Args:
        paths: of the images.
        pixels: ``[N,S,S]`` their thumbnails.
        group_by: see `divide`.

    Raises:
        UsageError: no file name fits the expression.
    """
    scenes = groups_of(len(paths), ((pair.first, pair.second) for pair in find_similar(pixels)))
    if group_by is None:
        return scenes
    if group_by == "folder":
        return joined(scenes, [path.parent for path in paths])
    if group_by == "time":
        return joined(scenes, _by_time(paths))
    matches = [re.search(group_by, path.name) for path in paths]
    if not any(matches):
        raise UsageError(f"--group-by {group_by}: no file name fits, the first is {paths[0].name}")
    return joined(scenes, [match[1] if match else str(path) for match, path in zip(matches, paths, strict=True)])


def _by_time(paths: Sequence[Path]) -> list[int]:
    """A new number whenever nothing was taken for a while."""
    times = np.array([_taken(path) for path in paths])
    order = np.argsort(times, kind="stable")
    numbers = np.empty(len(paths), np.int64)
    numbers[order] = np.concatenate([[0], np.cumsum(np.diff(times[order]) > _SECONDS_APART)])
    found: list[int] = numbers.tolist()
    return found


def _taken(path: Path) -> float:
    """Seconds: when the camera says, else when the file was written."""
    try:
        with open_source(path, "image", exact=False) as source:
            exif = Image.Exif() if source.image is None else source.image.getexif()
            values = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
        text = next((values[tag] for tag in _TAKEN if tag in values), "")
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except (DataError, OSError, ValueError, SyntaxError):
        return path.stat().st_mtime
