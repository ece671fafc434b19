"""Latency of runtimes between declared boundaries, each of which holds the one before.

``engine``
    The computation alone. Where work is launched on a CUDA stream, device time between two events; else the call into
    the library. The graph still holds normalisation, resizing, upsampling and argmax, because the artefact does.
``copies``
    With the copies of the images to the device and of the class maps back. On a CPU there is little to copy.
``arrays``
    `Runtime.predict`: uint8 images in host memory to uint8 class maps in host memory. What a program waits for that
    calls the runtime.
``request``
    The same of a model on a server: from the client to the server and back.
``file``
    From image files: reading and decoding, then ``arrays`` or ``request``.

The first three are spans of the same calls (`Runtime.predict_timed`), so that they are in this order in every one of
them, which is asserted. Times are of ``time.perf_counter_ns``, with Python's garbage collector off. All runtimes are
measured alternately, a few calls each, forwards and backwards (A B, B A, A B, …), so that a machine that gets slower
or busier slows all of them alike: ratios from one such measurement hold where two separate ones would not. The first
call of each turn is not counted; it pays for caches and threads the one before left behind.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from protoseg_deploy.benchmarking.call_series import CallSeries, calls_on_arrays, calls_on_files, measure_in_turns
from protoseg_deploy.benchmarking.distribution import FEWEST_RUNS
from protoseg_deploy.benchmarking.energy.measuring import EnergyFigures
from protoseg_deploy.benchmarking.energy.meters import DeviceMeters
from protoseg_deploy.benchmarking.inputs import require_memory
from protoseg_deploy.benchmarking.latency_report import BOUNDARIES, LatencyReport, Opening
from protoseg_deploy.benchmarking.machine import Machine, describe_machine, gpu_memory_used_mib
from protoseg_deploy.benchmarking.memory import resident_bytes, resident_peak_bytes
from protoseg_deploy.benchmarking.neighbours import LIMIT_CORES
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array
from protoseg_deploy.runtimes.remote import RemoteRuntime
from protoseg_deploy.runtimes.server_times import ServerTimes

_SECONDS = 5.0


def measure_interleaved(
    runtimes: Sequence[Runtime],
    *,
    batch: int = 1,
    size: tuple[int, int] | None = None,
    runs: int | None = None,
    seconds: float | None = None,
    warmup_seconds: float = 5.0,
    images: UInt8Array | None = None,
    read: Callable[[], UInt8Array] | None = None,
    openings: Sequence[Opening] | None = None,
    energy: bool = False,
) -> list[LatencyReport]:
    """Latency of one or more runtimes on the same images, measured alternately.

    Args:
        runtimes: what to measure.
        batch: images per call.
        size: height and width of random images; 512x512, or the fixed input size of a runtime, when absent.
        runs: the fewest timed iterations of each runtime; 20 when absent.
        seconds: the least time for each runtime; when absent 5, or 0 where `runs` is given.
        warmup_seconds: the longest a warm-up may take, for each runtime.
        images: ``[B,H,W,3]`` uint8 RGB to use instead of random ones; `batch` and `size` are then theirs.
        read: reads and decodes `images` from their files; with it, ``file`` is measured, too.
        openings: of each runtime, for reports.
        energy: measure that of each runtime, too, one after the other.

    Raises:
        UsageError: a runtime has another fixed input size, or there is no memory for such a batch.
        ProtosegError: a part of a call took longer than the call: device and host have clocks that disagree.
    """
    kind = "random" if images is None else "images"
    if images is None:
        images = _noise(runtimes, batch, size)
    for runtime in runtimes:
        if runtime.info.fixed_size not in (None, images.shape[1:3]):
            raise UsageError(
                f"{runtime.info.path} takes images of {_size(runtime.info.fixed_size)} only, not "
                f"{_size(images.shape[1:3])}",
                f"Measure with --size {_size(runtime.info.fixed_size)}.",
            )
    if any(runtime.info.device == "cuda" for runtime in runtimes):
        torch.cuda.reset_peak_memory_stats()
    machine = describe_machine()
    firsts = [_first_call(runtime, images) for runtime in runtimes]
    on_arrays = [CallSeries(calls_on_arrays(runtime, images)) for runtime in runtimes]
    on_files = [] if read is None else [CallSeries(calls_on_files(runtime, read)) for runtime in runtimes]
    seconds = (_SECONDS if runs is None else 0.0) if seconds is None else seconds
    before = [_server_times(runtime) for runtime in runtimes]
    with DeviceMeters([runtime.info.device for runtime in runtimes], energy) as meters:
        with meters.watching() as seen:
            neighbours = measure_in_turns([*on_arrays, *on_files], runs or FEWEST_RUNS, seconds, warmup_seconds)
        costs = [meters.cost(runtime, images) for runtime in runtimes]
    doubts = [*_doubts(runtimes, neighbours), *seen.doubts()]
    return [
        _report(
            runtime,
            (kind, images.shape),
            on_arrays[number],
            on_files[number] if on_files else None,
            first=firsts[number],
            opening=openings[number] if openings else None,
            server=_since(runtime, before[number]),
            cost=costs[number],
            doubts=doubts,
            neighbours=neighbours,
            machine=machine,
        )
        for number, runtime in enumerate(runtimes)
    ]


def _noise(runtimes: Sequence[Runtime], batch: int, size: tuple[int, int] | None) -> UInt8Array:
    fixed = next((info.fixed_size for info in (runtime.info for runtime in runtimes) if info.fixed_size), None)
    height, width = size or fixed or (512, 512)
    require_memory(batch, height, width)
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def _doubts(runtimes: Sequence[Runtime], neighbours: float | None) -> list[str]:
    """What speaks against all figures of a measurement."""
    asked = any(runtime.info.kind == "server" for runtime in runtimes)  # it may be another program of this machine
    if asked or neighbours is None or neighbours <= LIMIT_CORES:
        return []
    return [f"other programs used {neighbours:.1f} cores meanwhile"]


def _report(
    runtime: Runtime,
    source: tuple[str, tuple[int, ...]],
    series: CallSeries,
    on_files: CallSeries | None,
    *,
    first: "_First",
    opening: Opening | None,
    server: ServerTimes | None,
    cost: tuple[EnergyFigures | None, str],
    doubts: Sequence[str],
    neighbours: float | None,
    machine: Machine,
) -> LatencyReport:
    kind, (batch, height, width, _) = source
    boundaries = {name: series.stats(name, batch, doubts) for name in BOUNDARIES if name in series.calls[0]}
    if on_files is not None:
        boundaries["file"] = on_files.stats("file", batch, doubts)
    on_gpu = runtime.info.device == "cuda"
    return LatencyReport(
        info=runtime.info,
        batch=batch,
        height=height,
        width=width,
        input=kind,
        boundaries=boundaries,
        launch_p50_ms=series.median_ms("launch"),
        cores=round(series.processor_ns / max(series.wall_ns, 1), 2),
        server_queue_ms=server.queue_ns / server.requests / 1e6 if server else None,
        server_compute_ms=server.compute_ns / server.requests / 1e6 if server else None,
        load_ms=opening.load_ms if opening else None,
        first_call_ms=first.taken_ns / 1e6,
        host_memory_mib=round((opening.memory_bytes + first.memory_bytes) / 2**20, 1) if opening else None,
        process_peak_memory_mib=round(resident_peak_bytes() / 2**20, 1),
        gpu_peak_memory_mib=_torch_peak_mib(runtime.info),
        gpu_memory_used_mib=round(gpu_memory_used_mib(), 1) if on_gpu else None,
        energy=cost[0],
        energy_absent=cost[1],
        neighbours_cores=neighbours,
        machine=machine,
    )


@dataclass(frozen=True)
class _First:
    """The first call of a runtime."""

    taken_ns: int
    memory_bytes: int
    """By which the resident memory of this process grew."""


def _first_call(runtime: Runtime, images: UInt8Array) -> _First:
    before, begin = resident_bytes(), time.perf_counter_ns()
    runtime.predict_timed(images)
    return _First(time.perf_counter_ns() - begin, max(0, resident_bytes() - before))


def _server_times(runtime: Runtime) -> ServerTimes | None:
    return runtime.server_times() if isinstance(runtime, RemoteRuntime) else None


def _since(runtime: Runtime, earlier: ServerTimes | None) -> ServerTimes | None:
    now = _server_times(runtime) if earlier is not None else None
    return now.since(earlier) if now is not None and earlier is not None else None


def _torch_peak_mib(info: RuntimeInfo) -> float | None:
    if info.device == "cpu" or info.kind != "pytorch":
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def _size(size: tuple[int, ...] | None) -> str:
    return f"{size[0]}x{size[1]}" if size else "any size"
