"""What a worker is told: texts and numbers alone, so that any engine can carry it to any process."""

from dataclasses import dataclass

from protoseg_deploy.choices import Backend, Precision
from protoseg_deploy.runtimes import opening
from protoseg_deploy.runtimes.base import Runtime


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime, not opened yet; see `open_runtime`."""

    path: str
    """A file or folder, absolute as workers may run elsewhere; or the address of a model on a server."""
    precision: Precision | None = None
    backend: Backend | None = None
    device: str = "auto"
    which: str = "best"

    def open(self, threads: int | None = None) -> Runtime:
        """The one place where a sharded prediction opens its runtime. Raises as `open_runtime`."""
        return opening.open_runtime(
            self.path,
            device=self.device,
            threads=threads,
            which=self.which,
            precision=self.precision,
            backend=self.backend,
        )


@dataclass(frozen=True)
class ShardSpec:
    """Everything that decides how a shard is predicted, but for its number."""

    runtime: RuntimeChoice
    threads: int | None
    """Of the CPU, for each worker; None: the default of the process."""
    out: str
    """Absolute folder of the results, or its URL."""
    plan_sha256: str
    artefact_sha256: str
    """What the runtime of every worker has to be, see `artefact_sha256`."""
    version: str
    """Of this program, on every machine."""
    tile: tuple[int, int] | None
    overlap: int
    batch: int
    pack: bool
    call_limit_s: float | None = None
    """Time limit of library calls, see `time_limit`."""
