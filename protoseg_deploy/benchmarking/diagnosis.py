"""Where the time of a call goes, in one line, and what to try."""

from dataclasses import dataclass
from typing import Literal

Bound = Literal["compute", "copy", "launch", "pre/post", "queue", "client"]
"""What a call waits for most: the network; copies between host and device; the host, which launches more slowly than
the device computes; the host around the call, checks and decoding included; the queue of a server; or, of a server,
what lies between the client and its network."""

_SHARE = 0.3
"""Of a call, from which on something other than the network is worth a change."""
_LAUNCHING = 0.9
"""Time of the host to launch over time of the device: above it, the device waits for the host."""


@dataclass(frozen=True)
class Parts:
    """Medians of one runtime in milliseconds; None: it has no such part, or nobody can tell."""

    arrays_ms: float
    """Of the whole call; of a server the request."""
    engine_ms: float | None = None
    copies_ms: float | None = None
    launch_ms: float | None = None
    file_ms: float | None = None
    queue_ms: float | None = None
    compute_ms: float | None = None
    remote: bool = False
    int8: bool = False
    """There is no lower precision."""
    cuda_graph: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What a call waits for most, and the line that says so."""

    bound: Bound
    text: str


def diagnose(parts: Parts) -> Diagnosis:
    """Judge the measured parts of a call, the outermost first: what is lost there no faster network brings back."""
    if parts.file_ms is not None and _share(parts.file_ms - parts.arrays_ms, parts.file_ms) > _SHARE:
        share = _percent(parts.file_ms - parts.arrays_ms, parts.file_ms)
        return Diagnosis(
            "pre/post",
            f"pre/post-bound: {share} of the time from a file goes into reading and decoding. Decode in other "
            "processes, as `predict --workers` does, keep smaller images, or take frames that are decoded already.",
        )
    if parts.remote:
        return _of_server(parts)
    return _of_call(parts)


def _of_server(parts: Parts) -> Diagnosis:
    total, queue, compute = parts.arrays_ms, parts.queue_ms, parts.compute_ms
    if queue is None or compute is None:
        return Diagnosis("client", "waiting for the server, which does not tell how long it queues and computes.")
    between = max(0.0, total - queue - compute)
    if _share(queue, total) > _SHARE and queue > between:
        return Diagnosis(
            "queue",
            f"queue-bound: {_percent(queue, total)} of a request is waiting in the queue of the server. Other clients "
            "are at work: add instances, allow larger batches, or send less.",
        )
    if _share(between, total) > _SHARE:
        return Diagnosis(
            "client",
            f"waiting for the client: {_percent(between, total)} of a request lies outside queue and network. Send "
            "compressed images rather than arrays, keep connections open, use several clients at once (`protoseg "
            "load`), or move closer.",
        )
    return Diagnosis("compute", _compute(_percent(compute, total), "a request", parts.int8))


def _of_call(parts: Parts) -> Diagnosis:
    total, copies, engine = parts.arrays_ms, parts.copies_ms, parts.engine_ms
    if copies is None or engine is None:
        return Diagnosis("compute", _compute("all", "a call", parts.int8))
    around, copying = total - copies, copies - engine
    if _share(around, total) > _SHARE and around >= copying:
        return Diagnosis(
            "pre/post",
            f"pre/post-bound: {_percent(around, total)} of a call is the host around the library: checks and copies "
            "in main memory. Larger batches, and contiguous arrays, make it less.",
        )
    if _share(copying, total) > _SHARE:
        return Diagnosis(
            "copy",
            f"copy-bound: {_percent(copying, total)} of a call is copying to the device and back. Keep images on the "
            "device (`predict_tensor` of engines), or decode them there.",
        )
    if parts.launch_ms is not None and _share(parts.launch_ms, engine) > _LAUNCHING:
        graph = "" if parts.cuda_graph else "; engines of `protoseg build` replay launches from a CUDA graph"
        return Diagnosis(
            "launch",
            f"launch-bound: the host needs {_percent(parts.launch_ms, engine)} of the computing time to launch it. "
            f"Larger batches cost little more here{graph}.",
        )
    return Diagnosis("compute", _compute(_percent(engine, total), "a call", parts.int8))


def _compute(share: str, what: str, int8: bool) -> str:
    means = "A smaller input scale" if int8 else "A lower precision, a smaller input scale"
    return f"compute-bound: {share} of {what} is the network. {means} or a lighter student may make it faster."


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _percent(part: float, whole: float) -> str:
    return f"{100 * _share(part, whole):.0f} %"
