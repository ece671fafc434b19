"""Class maps of image files, as files: indices, colours, overlays."""

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from protoseg_deploy import __version__
from protoseg_deploy.data.finding import UnreadFiles
from protoseg_deploy.data.images import read_image
from protoseg_deploy.errors import DataError, ProtosegError, WriteError
from protoseg_deploy.evaluation.class_maps import (
    FailureKind,
    ImageError,
    Tiling,
    as_indices,
    choose_tiling,
    count_pixels,
    is_of_one_name,
    predict_image,
)
from protoseg_deploy.evaluation.colors import colorize, overlay
from protoseg_deploy.evaluation.computing import CheckedRuntime
from protoseg_deploy.evaluation.output_folder import OutputFolder, open_output
from protoseg_deploy.evaluation.prediction_plan import check_outputs, find_inputs, find_unread, name_outputs
from protoseg_deploy.evaluation.result_marks import Mark, made_by, read_results
from protoseg_deploy.files import open_regular
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, artefact_sha256


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
    is_skipped: bool = False
    """It had been done before, by the same artefact in the same way."""


@dataclass(frozen=True)
class FailedImage:
    """One image that was not done."""

    image: Path
    kind: FailureKind
    reason: str
    """Names the image."""


@dataclass(frozen=True)
class Prediction:
    """Result of `predict_files`."""

    images: tuple[PredictedImage, ...]
    failed: tuple[FailedImage, ...]
    unread: tuple[tuple[Path, UnreadFiles], ...]
    """Folders with files that were passed over, such as those of formats that are not read."""
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
    skip_existing: bool = False,
    connections: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> Prediction:
    """Write ``out/index``, ``out/color`` and ``out/overlay``, one PNG per image in each.

    Folders are searched recursively and keep their layout below the output folder. Images that would get the same name
    keep their ending in it, or get a number. Index files are 8-bit (16-bit above 256 classes).

    An image that cannot be read, computed or named does not keep the others from being done; ``out/failures.jsonl``
    lists such images as they come. What every image would meet, such as a full disk or an artefact that fails on a
    plain image too, ends the call; what is done stays.

    Args:
        runtime: what predicts.
        inputs: image files and folders.
        out: where to write; made if missing, earlier results of the same name are replaced.
        tile: height and width of tiles. Absent: whole images, or tiles of the fixed input size of the runtime.
        overlap: pixels shared by neighbouring tiles; a quarter of the tile when absent.
        batch: tiles per call.
        alpha: share of the class colour in overlays.
        skip_existing: leave out images whose three PNGs are there, made from the same bytes by the same artefact with
            the same library and options.
        connections: images under way at a time; more than one only for a runtime that threads may share, as
            `RemoteRuntime`.
        progress: called with (images done, images in all).

    Raises:
        UsageError: an input does not exist, there is no image at all, a result would replace an input, the tiles do not
            fit, or another process writes there.
        ProtosegError: the output cannot be written, or the artefact fails.
    """
    tiling = choose_tiling(runtime.info, tile, overlap, batch)
    start = time.perf_counter()
    plan = name_outputs(find_inputs(inputs, out))
    unread = find_unread(inputs, out)
    artefact = [path for path in (runtime.info.path, *runtime.info.files) if isinstance(path, Path)]
    check_outputs(plan, inputs, out, artefact)
    checked = CheckedRuntime(runtime)
    done: list[PredictedImage] = []
    failed: list[FailedImage] = []
    with open_output(out) as output:
        job = _Job(checked, output, tiling, alpha, skip_existing)
        try:
            for path, result in _results(job, plan, connections):
                try:
                    done.append(result())
                except ImageError as error:
                    failed.append(FailedImage(path, error.kind, error.message))
                    output.note_failure(path, error.kind, error.message)
                if progress is not None:
                    progress(len(done) + len(failed), len(plan))
        except ProtosegError as error:
            if done:
                error.hint += f" {len(done)} of {len(plan)} images are done: --skip-existing resumes from there."
            raise
    return Prediction(tuple(done), tuple(failed), unread, tiling.tile, tiling.overlap, time.perf_counter() - start)


def _results(
    job: "_Job", plan: Sequence[tuple[Path, Path]], connections: int
) -> Iterator[tuple[Path, Callable[[], PredictedImage]]]:
    """Each image, in order, with a call that gives its result or raises; several at a time through a server."""
    if connections == 1:
        yield from ((path, partial(job.do, path, name)) for path, name in plan)
        return
    remaining = iter(plan)
    ahead: deque[tuple[Path, Future[PredictedImage]]] = deque()
    with ThreadPoolExecutor(connections, thread_name_prefix="predict") as threads:
        try:
            while True:
                free = 2 * connections - len(ahead)
                ahead.extend((path, threads.submit(job.do, path, name)) for path, name in islice(remaining, free))
                if not ahead:
                    return
                path, future = ahead.popleft()
                yield path, future.result
        finally:
            threads.shutdown(cancel_futures=True)


class _Job:
    """What is the same for every image of a call."""

    def __init__(
        self, runtime: CheckedRuntime, output: OutputFolder, tiling: Tiling, alpha: float, skip_existing: bool
    ) -> None:
        self._runtime, self._output = runtime, output
        self._tiling, self._alpha, self._skip_existing = tiling, alpha, skip_existing
        self._artefact = artefact_sha256(runtime.info)
        self._made_by = _made_by(self._artefact, runtime.info, tiling, alpha)

    def do(self, path: Path, name: Path) -> PredictedImage:
        """Predict one image, or find that it has been.

        Raises:
            ImageError: it cannot be done.
            ProtosegError: no image can.
        """
        try:
            digest = _digest(path)
            return self._earlier(path, name, digest) or self._predict(path, name, digest)
        except MemoryError:  # reading it, painting or packing its pictures
            raise ImageError("memory", f"{path}: too large for the memory") from None

    def _earlier(self, path: Path, name: Path, digest: str) -> PredictedImage | None:
        if not self._skip_existing or not self._artefact:
            return None
        targets = self._output.targets(name)
        found = read_results(targets.values())
        if found is None or (found.mark.image_sha256, found.mark.made_by) != (digest, self._made_by):
            return None
        size, pixels = (found.height, found.width), found.mark.class_pixels
        return PredictedImage(
            path, targets["index"], targets["color"], targets["overlay"], *size, pixels, is_skipped=True
        )

    def _predict(self, path: Path, name: Path, digest: str) -> PredictedImage:
        try:
            image = read_image(path, self._runtime.info.reading)
        except DataError as error:
            kind: FailureKind = "memory" if isinstance(error.__context__, MemoryError) else "unreadable"
            raise ImageError(kind, error.message) from None
        if not image.size:
            raise ImageError("unreadable", f"{path}: an image without pixels")
        class_map = predict_image(self._runtime, image, str(path), self._tiling)
        classes = self._runtime.info.classes
        mark = Mark(image_sha256=digest, made_by=self._made_by, class_pixels=count_pixels(class_map, len(classes)))
        pictures = {
            "index": as_indices(class_map, len(classes)),
            "color": colorize(class_map, classes.colors),
            "overlay": overlay(image, class_map, classes.colors, self._alpha),
        }
        try:
            targets = self._output.write(name, pictures, mark)
        except WriteError as error:
            if is_of_one_name(error):
                raise ImageError("output", f"{path}: {error.message}") from None
            raise
        height, width = class_map.shape
        return PredictedImage(
            path, targets["index"], targets["color"], targets["overlay"], height, width, mark.class_pixels
        )


def _made_by(artefact: str, info: RuntimeInfo, tiling: Tiling, alpha: float) -> str:
    """Digest of what decides a result beside the image; another device or library may round differently."""
    library = (info.kind, info.precision, info.device, info.backend)
    return made_by(__version__, artefact, *library, info.reading.model_dump_json(), tiling.tile, tiling.overlap, alpha)


def _digest(path: Path) -> str:
    """SHA-256 of an image file; taken before it is read, so that a file replaced meanwhile counts as another one."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError("unreadable", f"{path}: cannot be read: {error.strerror or error}") from None
