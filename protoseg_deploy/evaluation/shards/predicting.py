"""A sharded prediction from its images to its summary: plan, resume, hand out, count."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from protoseg_deploy import __version__
from protoseg_deploy.errors import UsageError, WriteError
from protoseg_deploy.evaluation.class_maps import Tiling, choose_tiling
from protoseg_deploy.evaluation.shards.begun import LOCK, Begun, begin
from protoseg_deploy.evaluation.shards.listing import list_images
from protoseg_deploy.evaluation.shards.local_engine import Setup, count_cores, run_here, run_local
from protoseg_deploy.evaluation.shards.masks import INDEX, PACKED
from protoseg_deploy.evaluation.shards.notes import NOTES
from protoseg_deploy.evaluation.shards.plan import Plan, make_plan
from protoseg_deploy.evaluation.shards.ray_engine import run_ray
from protoseg_deploy.evaluation.shards.rows import RESULTS, ShardResult, read_result, shard_file, shard_of
from protoseg_deploy.evaluation.shards.spec import RuntimeChoice, ShardSpec
from protoseg_deploy.evaluation.shards.stores import LocalStore, RemoteStore, open_store
from protoseg_deploy.locks import sole_writer
from protoseg_deploy.runtimes.base import RuntimeInfo, artefact_sha256

Engine = Literal["local", "ray"]

_SHOWN_FAILURES = 20
_MOST_ON_A_GPU = 4
"""Worker processes by default where a GPU computes: each holds the network in its memory."""


@dataclass(frozen=True)
class Workforce:
    """Who predicts the shards."""

    engine: Engine = "local"
    address: str | None = None
    """Of a Ray cluster; None: one on this machine."""
    workers: int | None = None
    """Processes, or tasks at a time; 0: this process itself; None: as the cores allow."""
    call_limit_s: float | None = None
    """Time limit of library calls in workers, see `time_limit`."""
    setup: Setup | None = None
    """Called once in every worker process; a function of a module."""


@dataclass
class ShardedPrediction:
    """Result of `predict_sharded`; counts are over all shards, those of earlier calls too."""

    out: str
    plan: Plan
    tiling: Tiling
    workers: int | None
    resumed: int
    """Shards that were done before."""
    images: int = 0
    """Done, with a mask."""
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    """Why images failed, of the first few in the order of the plan."""
    class_pixels: list[int] = field(default_factory=list)
    """Pixels by class, of all masks."""
    seconds: float = 0.0

    @property
    def masks(self) -> str:
        """Where the masks are."""
        return f"{self.out}/{PACKED if self.is_packed else INDEX}"

    @property
    def results(self) -> str:
        """Where the rows are."""
        return f"{self.out}/{RESULTS}"

    is_packed: bool = False
    _failures: dict[int, tuple[str, ...]] = field(default_factory=dict, repr=False)

    def add(self, result: ShardResult) -> None:
        """Count a finished shard."""
        self.images += result.images - result.failed
        self.failed += result.failed
        self.class_pixels = [a + b for a, b in zip(self.class_pixels, result.class_pixels, strict=True)]
        if result.failures:
            self._failures[result.shard] = result.failures
            kept = sorted(self._failures)[:_SHOWN_FAILURES]  # each has at least one
            self._failures = {shard: self._failures[shard] for shard in kept}
            self.failures = [reason for shard in kept for reason in self._failures[shard]][:_SHOWN_FAILURES]


def predict_sharded(
    runtime: RuntimeChoice,
    info: RuntimeInfo,
    inputs: Sequence[str],
    out: str,
    *,
    manifest: str | None = None,
    shards: int | None = None,
    tile: tuple[int, int] | None = None,
    overlap: int | None = None,
    batch: int = 1,
    pack: bool = False,
    workforce: Workforce | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> ShardedPrediction:
    """Predict images in shards, or go on with a prediction that was begun in the same folder.

    ``OUT/index`` gets a palette PNG for every image, or ``OUT/masks`` a tar for every shard; ``OUT/results`` a Parquet
    file for every shard that is done, with a row for every image, failed ones too; ``OUT/plan.json`` and
    ``OUT/plan.parquet`` say what was begun.

    Args:
        runtime: what predicts.
        info: of the runtime, as opened here.
        inputs: image files and folders, local or URLs that fsspec reads.
        out: folder of the results, likewise; new, empty, or begun by the same call.
        manifest: a file that names more images, see `read_manifest`.
        shards: how many; None: of about a thousand images.
        tile: see `choose_tiling`.
        overlap: likewise.
        batch: tiles per call.
        pack: tars in place of PNGs.
        workforce: who predicts; None: local processes.
        progress: called with (images done by this call, images it has to do).

    Raises:
        UsageError: images, options or libraries are not there or do not fit, another prediction was begun in the
            folder, or another process writes there.
        ProtosegError: the artefact fails, results cannot be written, or workers keep dying.
    """
    start = time.perf_counter()
    workforce = workforce or Workforce()
    _check(workforce)
    tiling = choose_tiling(info, tile, overlap, batch)
    store = open_store(out)
    leave_out = [f"{store.root}/{name}" for name in (INDEX, PACKED)]
    artefact = artefact_sha256(info)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.parquet"
        plan = make_plan(list_images(inputs, manifest, leave_out), file, shards=shards, dotless=pack)
        with _sole_writer(store):
            begin(store, Begun.of(plan, info, artefact, tiling, pack), file)
            workers = _count_workers(workforce, plan, info)
            spec = ShardSpec(
                runtime,
                _threads(workforce, workers),
                store.root,
                plan.sha256,
                artefact,
                __version__,
                tiling.tile,
                tiling.overlap,
                tiling.batch,
                pack,
                workforce.call_limit_s,
            )
            result = _predict_rest(store, spec, plan, tiling, info, workforce, workers, progress)
    result.seconds = time.perf_counter() - start
    return result


def _predict_rest(
    store: LocalStore | RemoteStore,
    spec: ShardSpec,
    plan: Plan,
    tiling: Tiling,
    info: RuntimeInfo,
    workforce: Workforce,
    workers: int | None,
    progress: Callable[[int, int], object] | None,
) -> ShardedPrediction:
    done = sorted({found for name in store.names(RESULTS) if (found := shard_of(name)) is not None})
    result = ShardedPrediction(store.root, plan, tiling, workers, len(done), class_pixels=[0] * len(info.classes))
    result.is_packed = spec.pack
    for shard in done:
        local = isinstance(store, LocalStore)
        place = f"{store.root}/{shard_file(shard)}"
        result.add(read_result(place if local else store.read(shard_file(shard)), shard, plan.sha256, place))
    rest = sorted(set(range(plan.shards)) - set(done))
    counter = _Counter(sum(map(plan.size, rest)), progress)

    def finished(of_shard: ShardResult) -> None:
        result.add(of_shard)
        counter.finish(of_shard)

    if not rest:
        return result
    if workforce.engine == "ray":
        gpu = info.device == "cuda"
        address, setup = workforce.address, workforce.setup
        run_ray(spec, rest, address=address, workers=workers, gpu=gpu, finished=finished, setup=setup)
    elif workers:
        run_local(spec, rest, workers, finished, counter.note, workforce.setup)
    else:
        run_here(spec, rest, finished, counter.note)
    return result


class _Counter:
    """Images done, those of shards that are being predicted included."""

    def __init__(self, total: int, progress: Callable[[int, int], object] | None) -> None:
        self._total, self._progress = total, progress
        self._done = 0
        self._parts: dict[int, int] = {}

    def note(self, shard: int, images: int) -> None:
        self._parts[shard] = images
        self._tell()

    def finish(self, result: ShardResult) -> None:
        self._parts.pop(result.shard, None)
        self._done += result.images
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._done + sum(self._parts.values()), self._total)


@contextmanager
def _sole_writer(store: LocalStore | RemoteStore) -> Iterator[None]:
    """In a local folder nobody else writes meanwhile, and nothing unfinished is left. Object stores have no locks."""
    if not isinstance(store, LocalStore):
        yield
        return
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(store.folder, error) from None
    with sole_writer(store.folder / LOCK, store.root):
        store.prepare()
        try:
            yield
        finally:
            store.tidy(NOTES)


def _check(workforce: Workforce) -> None:
    if workforce.engine == "ray" and workforce.workers == 0:
        raise UsageError("--workers 0 predicts in this process, not with --engine ray", "Leave --workers out.")
    if workforce.engine != "ray" and workforce.address is not None:
        raise UsageError("--address is that of a Ray cluster", "Add --engine ray, or leave --address out.")


def _count_workers(workforce: Workforce, plan: Plan, info: RuntimeInfo) -> int | None:
    """Depends on nothing that changes when a prediction goes on: so do the threads, and the rounding with them."""
    if workforce.engine == "ray":
        return workforce.workers
    most = min(count_cores(), _MOST_ON_A_GPU) if info.device == "cuda" else count_cores()
    return min(most if workforce.workers is None else workforce.workers, plan.shards)


def _threads(workforce: Workforce, workers: int | None) -> int:
    if workforce.engine == "ray":
        return 1
    return max(1, count_cores() // (workers or 1))
