"""The core of sharded prediction: one shard, start to end, in whatever process an engine has chosen."""

import hashlib
from collections.abc import Callable
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from protoseg_deploy import __version__
from protoseg_deploy.data.images import decode_image
from protoseg_deploy.errors import DataError, UsageError, WriteError
from protoseg_deploy.evaluation.class_maps import (
    FailureKind,
    ImageError,
    Tiling,
    count_pixels,
    is_of_one_name,
    predict_image,
)
from protoseg_deploy.evaluation.computing import CheckedRuntime
from protoseg_deploy.evaluation.result_names import PLAN_TABLE
from protoseg_deploy.evaluation.shards.libraries import pa
from protoseg_deploy.evaluation.shards.masks import MaskWriter, encode_mask, open_masks
from protoseg_deploy.evaluation.shards.notes import ShardNotes
from protoseg_deploy.evaluation.shards.plan import PlanReader
from protoseg_deploy.evaluation.shards.rows import Row, ShardResult, shard_file, write_rows
from protoseg_deploy.evaluation.shards.spec import ShardSpec
from protoseg_deploy.evaluation.shards.stores import LocalStore, is_url, open_store, read_content
from protoseg_deploy.runtimes.base import artefact_sha256


def predict_shard(spec: ShardSpec, shard: int, progress: Callable[[int], object] | None = None) -> ShardResult:
    """Predict the images of a shard: write their masks, then the file that says that the shard is done.

    The runtime is opened at the first call of a process and used again by the following ones. An image that cannot be
    read or computed becomes a row with the reason; so does one at which two workers have died.

    Args:
        spec: the same for all shards.
        shard: which one; of the plan in the folder of results.
        progress: called with the number of images done in this shard.

    Raises:
        UsageError: the runtime is another one here than where the prediction was started, or this program is.
        ProtosegError: no image can be computed, or the results cannot be written.
    """
    return _worker(spec).predict(shard, progress)


@lru_cache(maxsize=1)
def _worker(spec: ShardSpec) -> "_Worker":
    return _Worker(spec)


class _Worker:
    """What a process keeps from shard to shard: the runtime and the plan."""

    def __init__(self, spec: ShardSpec) -> None:
        if spec.version != __version__:
            raise UsageError(
                f"this worker runs version {__version__} of protoseg_deploy, the prediction was started by "
                f"{spec.version}",
                "Install one version on all machines.",
            )
        self._spec = spec
        self._store = open_store(spec.out)
        plan = f"{self._store.root}/{PLAN_TABLE}"
        try:
            local = isinstance(self._store, LocalStore)
            self._plan = PlanReader(plan if local else self._store.read(PLAN_TABLE))
        except (OSError, pa.ArrowException) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise UsageError(
                f"{plan} cannot be read here: {reason}",
                "Every machine has to see it under this path; where it is damaged, repeat the command.",
            ) from None
        self._runtime = CheckedRuntime(spec.runtime.open(spec.threads))
        self._artefact = artefact_sha256(self._runtime.info)
        if self._artefact != spec.artefact_sha256:
            raise UsageError(
                f"{spec.runtime.path} is another artefact here than where the prediction was started",
                "It was replaced meanwhile, or machines have copies that differ.",
            )
        self._tiling = Tiling(spec.tile, spec.overlap, spec.batch)

    def predict(self, shard: int, progress: Callable[[int], object] | None) -> ShardResult:
        with closing(ShardNotes(self._store, shard)) as notes:
            rows = self._rows(shard, notes, progress)
            content, result = write_rows(rows, shard, self._spec.plan_sha256, self._runtime.info.classes.names)
            self._store.write(shard_file(shard), content)
            notes.end()
        return result

    def _rows(self, shard: int, notes: ShardNotes, progress: Callable[[int], object] | None) -> list[Row]:
        poisonous = notes.begin()
        rows: list[Row] = []
        with open_masks(self._store, shard, pack=self._spec.pack) as masks:
            for number, (image, name) in enumerate(self._plan.rows(shard)):
                if number in poisonous:
                    rows.append(self._poisonous(image, poisonous[number]))
                else:
                    notes.turn_to(number)
                    rows.append(self._row(image, name, masks))
                if progress is not None:
                    progress(number + 1)
            notes.turn_to(None)
        return rows

    def _poisonous(self, image: str, how: str) -> Row:
        reason = f"{image}: worker processes die at it, the last one was {how}"
        return Row(image, self._artefact, kind="crash", reason=reason)

    def _row(self, image: str, name: str, masks: MaskWriter) -> Row:
        digest = None
        try:
            content = read_content(image)
            digest = hashlib.sha256(content).hexdigest()
            return self._done(image, name, content, digest, masks)
        except ImageError as error:
            return Row(image, self._artefact, kind=error.kind, reason=error.message, image_sha256=digest)
        except MemoryError:
            reason = f"{image}: too large for the memory"
            return Row(image, self._artefact, kind="memory", reason=reason, image_sha256=digest)
        except DataError as error:
            kind: FailureKind = "memory" if isinstance(error.__context__, MemoryError) else "unreadable"
            return Row(image, self._artefact, kind=kind, reason=error.message, image_sha256=digest)

    def _done(self, image: str, name: str, content: bytes, digest: str, masks: MaskWriter) -> Row:
        info = self._runtime.info
        try:
            pixels = decode_image(content, image, info.reading)
        except DataError as error:
            if is_url(image):  # named as a path, which doubled slashes are not part of
                error.message = error.message.replace(str(Path(image)), image)
            raise
        if not pixels.size:
            raise ImageError("unreadable", f"{image}: an image without pixels")
        class_map = predict_image(self._runtime, pixels, image, self._tiling)
        try:
            mask, member = masks.add(name, encode_mask(class_map, info.classes.colors))
        except WriteError as error:
            if is_of_one_name(error):
                raise ImageError("output", f"{image}: {error.message}") from None
            raise
        height, width = class_map.shape
        counts = count_pixels(class_map, len(info.classes))
        return Row(image, self._artefact, mask, member, None, None, digest, height, width, counts)
