"""Class maps of image files, as files: indices, colours, overlays."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data.images import read_image
from protoseg_deploy.data.pairing import find_images
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation.colors import colorize, overlay
from protoseg_deploy.runtimes.base import Runtime, UInt8Array
from protoseg_deploy.runtimes.tiling import default_overlap, predict_tiled

KINDS = ("index", "color", "overlay")
"""Folders below the output folder."""


@dataclass(frozen=True)
class PredictedImage:
    """One image that was done."""

    image: Path
    index: Path
    color: Path
    overlay: Path
    height: int
    width: int
    class_pixels: tuple[int, ...]
    """Pixels by class."""


@dataclass(frozen=True)
class Prediction:
    """Result of `predict_files`."""

    images: tuple[PredictedImage, ...]
    failed: tuple[tuple[Path, str], ...]
    """Images that could not be read, each with the reason."""
    tile: tuple[int, int] | None
    """Height and width of the tiles; None: whole images."""
    overlap: int
    seconds: float


def predict_files(
    runtime: Runtime,
    inputs: Sequence[Path],
    out: Path,
    *,
    tile: tuple[int, int] | None = None,
    overlap: int | None = None,
    batch: int = 1,
    alpha: float = 0.5,
    progress: Callable[[int, int], object] | None = None,
) -> Prediction:
    """Write ``out/index``, ``out/color`` and ``out/overlay``, one PNG an image in each.

    Folders are searched recursively and keep their layout below the output folder. Images that would get the same name
    keep their ending in it, or get a number. Index files are 8-bit (16-bit above 256 classes). An unreadable image does
    not keep the others from being done.

    Args:
        runtime: what predicts.
        inputs: image files and folders.
        out: where to write; made if missing, files of the same name are replaced.
        tile: height and width of tiles. Absent: whole images, or tiles of the size the runtime is bound to.
        overlap: pixels shared by neighbouring tiles; a quarter of the tile when absent.
        batch: tiles per call.
        alpha: share of the class colour in overlays.
        progress: called with (images done, images in all).

    Raises:
        UsageError: an input does not exist, or there is no image at all.
        ProtosegError: the output cannot be written, or an image is too large for the memory.
    """
    tile = tile or runtime.info.fixed_size
    if tile is None and overlap is not None:
        raise UsageError("an overlap needs a tile size", "Add --tile, or leave --overlap out.")
    overlap = default_overlap(tile) if overlap is None and tile is not None else overlap or 0
    start = time.perf_counter()
    plan = name_outputs(find_inputs(inputs, out))
    done: list[PredictedImage] = []
    failed: list[tuple[Path, str]] = []
    for path, name in plan:
        try:
            image = read_image(path, runtime.info.reading)
        except DataError as error:
            failed.append((path, error.message))
        else:
            class_map = _predict(runtime, image, path, tile, overlap, batch)
            done.append(_write(runtime, path, image, class_map, out, name, alpha))
        if progress is not None:
            progress(len(done) + len(failed), len(plan))
    return Prediction(tuple(done), tuple(failed), tile, overlap, time.perf_counter() - start)


def find_inputs(inputs: Iterable[Path], out: Path) -> list[tuple[Path, Path]]:
    """Every image once: (file, its path relative to the input that named it).

    What earlier runs wrote below `out` is no input, should `out` lie in one of the folders.

    Raises:
        UsageError: an input does not exist, or a folder holds no images.
    """
    written = [out / kind for kind in KINDS]
    found: dict[Path, tuple[Path, Path]] = {}  # by absolute path, links not followed: two links are two names
    faults: list[str] = []
    for given in inputs:
        if given.is_dir():
            for path in find_images(given, leave_out=written, key="IMAGES", faults=faults):
                found.setdefault(path.absolute(), (path, path.relative_to(given)))
        elif given.exists():
            found.setdefault(given.absolute(), (given, Path(given.name)))
        else:
            faults.append(f"{given}: no such file or folder")
    if faults:
        raise UsageError("\n".join(faults))
    return list(found.values())


def name_outputs(found: Sequence[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Give every image its own output name: (file, relative path ending in .png).

    ``a/x.jpg`` becomes ``a/x.png``; beside an ``a/x.tif``, ``a/x.jpg.png``; and a number is added if that is taken too.
    Names that differ only in upper and lower case count as equal: some file systems hold them to be.
    """
    wishes = Counter(_folded(relative.with_suffix(".png")) for _, relative in found)
    taken: set[str] = {wish for wish, count in wishes.items() if count == 1}
    named: list[tuple[Path, Path]] = []
    for path, relative in found:
        name = relative.with_suffix(".png")
        if wishes[_folded(name)] > 1:
            name, number = relative.with_name(f"{relative.name}.png"), 1
            while _folded(name) in taken:
                number += 1
                name = relative.with_name(f"{relative.name}-{number}.png")
            taken.add(_folded(name))
        named.append((path, name))
    return named


def _folded(path: Path) -> str:
    return path.as_posix().casefold()


def _predict(
    runtime: Runtime, image: UInt8Array, path: Path, tile: tuple[int, int] | None, overlap: int, batch: int
) -> NDArray[np.integer]:
    try:
        if tile is None:
            class_map: NDArray[np.integer] = runtime.predict(image[None])[0]
            return class_map
        return predict_tiled(runtime, image, tile, overlap, batch)
    except Exception as error:
        if not _is_out_of_memory(error):
            raise
        height, width = image.shape[:2]
        raise ProtosegError(
            f"{path}: {width}x{height} pixels are too many at once for the memory",
            "Predict it in tiles: --tile 1024." if tile is None else "Make --tile or --batch smaller.",
        ) from None


def _is_out_of_memory(error: Exception) -> bool:
    """PyTorch on a CPU and ONNX Runtime say it by a message only."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(sign in text for sign in ("out of memory", "allocate", "bad_alloc"))


def _write(
    runtime: Runtime,
    path: Path,
    image: UInt8Array,
    class_map: NDArray[np.integer],
    out: Path,
    name: Path,
    alpha: float,
) -> PredictedImage:
    classes = runtime.info.classes
    targets = {kind: out / kind / name for kind in KINDS}
    pictures = {
        "index": class_map.astype(np.uint8 if len(classes) <= 256 else np.uint16),
        "color": colorize(class_map, classes.colors),
        "overlay": overlay(image, class_map, classes.colors, alpha),
    }
    for kind, target in targets.items():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # level 1: overlays in a quarter of the default's time, a tenth larger
            Image.fromarray(pictures[kind]).save(target, compress_level=1)
        except OSError as error:
            raise ProtosegError(f"cannot write {target}: {error.strerror or error}", "Choose another --out.") from None
    pixels = np.bincount(class_map.ravel(), minlength=len(classes))
    return PredictedImage(
        path, **targets, height=image.shape[0], width=image.shape[1], class_pixels=tuple(int(n) for n in pixels)
    )
