"""Measured rows as ``protoseg bench --json`` writes them, read back: to compare with, to show, to choose from."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import UsageError

CONDITIONS = ("batch", "size", "threads", "cuda_graph")
"""Under which a runtime is measured; what a sweep varies."""


class _Document(BaseModel):
    """What else is in the file is of no interest here."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class MeasuredOn(_Document):
    """The machine; see `protoseg_deploy.benchmarking.machine.Machine`."""

    cpu: str
    gpu: str | None = None


class MeasuredRow(_Document):
    """One runtime: what it is, how it was measured, and what was found. Latencies are of its `boundary`."""

    runtime: str
    digest: str = ""
    precision: str = ""
    backend: str = ""
    verified: bool | None = None
    file_bytes: int = Field(default=0, ge=0)
    batch: int
    height: int
    width: int
    threads: int
    cuda_graph: bool | None = None
    boundary: str = "arrays"
    latency_p50_ms: float = Field(gt=0)
    latency_p50_low_ms: float = Field(gt=0)
    latency_p50_high_ms: float = Field(gt=0)
    latency_p90_ms: float = Field(gt=0)
    latency_p95_ms: float = Field(gt=0)
    latency_p99_ms: float = Field(gt=0)
    latency_mean_ms: float = Field(gt=0)
    images_per_second: float = Field(gt=0)
    bound: str = ""
    first_call_ms: float | None = None
    load_ms: float | None = None
    host_memory_mib: float | None = None
    joules_per_image: Annotated[float, Field(ge=0)] | None = None
    joules_per_image_net: float | None = None
    steady: bool
    doubts: tuple[str, ...] = ()
    miou_percent: float | None = None
    miou_low_percent: float | None = None
    miou_high_percent: float | None = None
    agreement_percent: float | None = None
    machine: MeasuredOn

    @model_validator(mode="after")
    def _interval_holds_the_median(self) -> Self:
        if not self.latency_p50_low_ms <= self.latency_p50_ms <= self.latency_p50_high_ms:
            raise ValueError("latency_p50_ms lies outside its interval")
        return self

    @property
    def conditions(self) -> tuple[Any, ...]:
        """What has to be equal for a comparison with itself at another time."""
        return self.runtime, self.batch, self.height, self.width, self.threads, self.cuda_graph

    @property
    def described(self) -> str:
        """The same for people."""
        return f"{self.runtime} ({self.batch} x {self.height}x{self.width}, {self.threads} threads)"

    def shown(self, condition: str) -> str:
        """One of `CONDITIONS`, for people."""
        if condition == "size":
            return f"{self.height}x{self.width}"
        value = getattr(self, condition)
        return {None: "–", True: "on", False: "off"}[value] if condition == "cuda_graph" else str(value)


class _Several(_Document):
    runtimes: Annotated[tuple[MeasuredRow, ...], Field(min_length=1)]


def read_rows(path: Path, option: str) -> tuple[MeasuredRow, ...]:
    """Rows of a file that ``protoseg bench --json`` wrote.

    Args:
        path: the file.
        option: of the command line that names it, for messages.

    Raises:
        UsageError: there is no such file.
        ProtosegError: it cannot be read, or is something else.
    """
    hint = "It has to be the output of `protoseg bench … --json` of this version."
    shape: TypeAdapter[MeasuredRow | _Several] = TypeAdapter(MeasuredRow | _Several)
    try:
        found = read_document(path, shape, hint)
    except FileNotFoundError:
        raise UsageError(f"{option}: no such file: {path}", "Write one with `protoseg bench … --json`.") from None
    return found.runtimes if isinstance(found, _Several) else (found,)
