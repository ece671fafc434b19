"""What a measurement of one runtime found."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protoseg_deploy.benchmarking.diagnosis import Diagnosis, Parts, diagnose
from protoseg_deploy.benchmarking.distribution import LatencyStats
from protoseg_deploy.benchmarking.energy.measuring import EnergyFigures
from protoseg_deploy.benchmarking.machine import Machine
from protoseg_deploy.runtimes.base import RuntimeInfo

BOUNDARIES = ("engine", "copies", "arrays", "request", "file")
"""See `protoseg_deploy.benchmarking.latency`; each holds the one before."""


@dataclass(frozen=True)
class Opening:
    """What came before the first call of a runtime."""

    load_ms: float
    """To open it, with the libraries that it needs where nothing before had loaded them."""
    memory_bytes: int
    """By which the resident memory of this process grew."""


@dataclass(frozen=True)
class LatencyReport:
    """What one runtime took, and under which conditions."""

    info: RuntimeInfo
    batch: int
    height: int
    width: int
    input: str
    """``images`` or ``random`` (uniform noise)."""
    boundaries: Mapping[str, LatencyStats]
    """Those of `BOUNDARIES` that this runtime has, in their order."""
    launch_p50_ms: float | None
    """Median time of the host until all work was launched; None where the library returns only when it is done."""
    cores: float
    """Cores that this process kept busy while the runtime computed, on average."""
    server_queue_ms: float | None
    """Mean wait of a request in the queue of the server, as it tells; None where there is none or it does not."""
    server_compute_ms: float | None
    """Likewise in the network."""
    load_ms: float | None
    first_call_ms: float
    """Of the first call at this size, in which libraries allocate, choose kernels or build engines."""
    host_memory_mib: float | None
    """By which opening it and its first call made the resident memory of this process grow."""
    process_peak_memory_mib: float
    """The most that was resident since this process was started: libraries and every runtime in it included."""
    gpu_peak_memory_mib: float | None
    """Peak of PyTorch's allocations on the GPU; None on a CPU and for other libraries."""
    gpu_memory_used_mib: float | None
    """In use on the GPU after the runs, by everything on it; None on a CPU."""
    energy: EnergyFigures | None
    """None: it was not asked for, or see `energy_absent`."""
    energy_absent: str
    """Why there are no figures although they were asked for."""
    neighbours_cores: float | None
    """Cores that other programs kept busy meanwhile; None: it took too little time to tell."""
    machine: Machine

    @property
    def boundary(self) -> str:
        """Whose figures stand for the runtime: ``arrays``, or ``request`` for a server."""
        return "request" if "request" in self.boundaries else "arrays"

    @property
    def stats(self) -> LatencyStats:
        return self.boundaries[self.boundary]

    @property
    def steady(self) -> bool:
        """Whether nothing speaks against the figures of any boundary."""
        return all(stats.steady for stats in self.boundaries.values())

    @property
    def diagnosis(self) -> Diagnosis:
        """Where the time goes, and what to try."""
        medians = {name: stats.p50_ms for name, stats in self.boundaries.items()}
        if "request" in medians:  # the server tells means
            medians = {name: stats.mean_ms for name, stats in self.boundaries.items()}
        return diagnose(
            Parts(
                engine_ms=medians.get("engine"),
                copies_ms=medians.get("copies"),
                arrays_ms=medians[self.boundary],
                file_ms=medians.get("file"),
                launch_ms=self.launch_p50_ms,
                queue_ms=self.server_queue_ms,
                compute_ms=self.server_compute_ms,
                remote="request" in self.boundaries,
                int8=self.info.precision == "int8",
                cuda_graph=bool(self.info.cuda_graph),
            )
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON values, units in the keys. The figures at the top are those of `boundary`."""
        return {
            "runtime": str(self.info.path),
            "kind": self.info.kind,
            "precision": self.info.precision,
            "device": self.info.device,
            "backend": self.info.backend,
            "threads": self.info.threads,
            "cuda_graph": self.info.cuda_graph,
            "parameters": self.info.parameters,
            "file_bytes": self.info.file_bytes,
            "batch": self.batch,
            "height": self.height,
            "width": self.width,
            "input": self.input,
            "boundary": self.boundary,
            **self.stats.to_dict(),
            "boundaries": {name: stats.to_dict() for name, stats in self.boundaries.items()},
            "launch_p50_ms": self.launch_p50_ms,
            "server_queue_ms": self.server_queue_ms,
            "server_compute_ms": self.server_compute_ms,
            "bound": self.diagnosis.bound,
            "diagnosis": self.diagnosis.text,
            "cores": self.cores,
            "build_seconds": self.info.build_seconds,
            "load_ms": self.load_ms,
            "first_call_ms": self.first_call_ms,
            "host_memory_mib": self.host_memory_mib,
            "process_peak_memory_mib": self.process_peak_memory_mib,
            "gpu_peak_memory_mib": self.gpu_peak_memory_mib,
            "gpu_memory_used_mib": self.gpu_memory_used_mib,
            "joules_per_image": self.energy.joules_per_image if self.energy else None,
            "joules_per_image_net": self.energy.joules_per_image_net if self.energy else None,
            "energy": self.energy.to_dict() if self.energy else None,
            "energy_absent": self.energy_absent,
            "neighbours_cores": self.neighbours_cores,
            "machine": self.machine.to_dict(),
        }
