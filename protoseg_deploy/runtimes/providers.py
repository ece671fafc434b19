"""Sessions of ONNX Runtime that compute where they were asked to.

ONNX Runtime itself would fall back, from TensorRT to CUDA and from CUDA to the CPU, and only log it. Here that is an
error, unless the device is ``auto``: then the choice is stated with its reason.
"""

import contextlib
import functools
import io
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort
import torch
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from platformdirs import user_cache_path

from protoseg_deploy.bundles.graph import Graph, unreadable
from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu
from protoseg_deploy.time_limit import time_limit

ort.disable_telemetry_events()  # also where the library was loaded before this package could switch them off

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_ASKED = {"cuda": "--device cuda", "tensorrt": "--backend tensorrt-ep"}
_REFUSED = (
    ort_errors.EPFail,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoModel,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_ERRORS_ONLY, _FATAL_ONLY, _DEFAULT_SEVERITY = 3, 4, 2
# Shape arithmetic always stays on the CPU; a network whose heavy nodes do is not running on the GPU.
_HEAVY = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "Attention"})


@dataclass(frozen=True)
class Opened:
    """A session, where it computes and why there."""

    session: Any
    device: str
    choice: str
    emulated: str
    """What is not computed in the types of the graph; empty: nothing."""


class _CannotComputeError(ProtosegError):
    """A provider refuses a graph that may be sound for another one, because of a missing kernel for instance."""


def open_session(graph: Graph, precision: Precision, device: str, threads: int, tensorrt: bool = False) -> Opened:
    """Open a graph under ONNX Runtime.

    Args:
        graph: what to open.
        precision: of the graph.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if the graph really runs there, else the CPU.
        threads: intra-op threads of the CPU provider.
        tensorrt: by the TensorRT provider, which needs a GPU. The first call at a new size builds an engine, which
            takes minutes; engines are kept, see `engine_cache`.

    Raises:
        UsageError: the device or the provider is not there, or would not do all of the work.
        ProtosegError: the file cannot be loaded, or the provider refuses it.
    """
    if tensorrt:
        if device == "cpu" or not torch.cuda.is_available():
            why = "no GPU was found" if device != "cpu" else "it cannot be combined with --device cpu"
            raise UsageError(
                f"--backend tensorrt-ep computes on an NVIDIA GPU: {why}", "Use --backend onnxruntime or openvino."
            )
        return _on_gpu(graph, precision, "tensorrt", threads, "asked for")
    if device == "cuda":
        return _on_gpu(graph, precision, "cuda", threads, "asked for")
    choice = "asked for" if device == "cpu" else "no GPU found"
    if device == "auto" and torch.cuda.is_available():
        try:
            return _on_gpu(graph, precision, "cuda", threads, "GPU found")
        except (UsageError, _CannotComputeError) as error:
            choice = error.message.removeprefix(f"{_ASKED['cuda']}: ")
    session = _session(graph, "cpu", precision, threads)
    return Opened(session, "cpu", choice, _emulation("cpu", precision))


def run_session(run: Callable[[Any], Any], source: object, *, times: int = 1) -> Any:
    """Call a session; one that takes too long is told to stop, and what it refuses is our own error.

    Args:
        run: the call, which takes ONNX Runtime's ``RunOptions``.
        source: what is run, for messages.
        times: see `time_limit`.

    Raises:
        ProtosegError: ONNX Runtime fails.
        TimeLimitError: it does not return.
    """
    options = ort.RunOptions()
    options.log_severity_level = _FATAL_ONLY
    stop = functools.partial(setattr, options, "terminate", True)
    try:
        with time_limit(f"a call of {source}", times=times, stop=stop):
            return run(options)
    except _REFUSED as error:
        raise ProtosegError(
            f"ONNX Runtime cannot compute {source}: {_reason(error)}",
            "If the memory was too small, use smaller images, tiles or batches; else export it again.",
        ) from None


def engine_cache(graph: Graph) -> Path:
    """Folder for the engines of the TensorRT provider: beside the graph, or the user's cache if that is read-only.

    ONNX Runtime names engines by the structure of a graph and not by its weights: the digest of the graph in the path
    keeps a retrained network from being answered by the engine of its predecessor.
    """
    folder = graph.file.absolute().parent
    name = graph.digest()[:16]
    if os.access(folder, os.W_OK):
        return folder / "engines" / "tensorrt-ep" / name
    return user_cache_path("protoseg", appauthor=False) / "tensorrt-ep" / name


def _on_gpu(graph: Graph, precision: Precision, provider: str, threads: int, choice: str) -> Opened:
    session = _session(graph, provider, precision, threads)
    name = PROVIDERS[provider]
    if session.get_providers()[0] != name:
        raise _not_loaded(provider, "and would compute on the CPU")
    elsewhere = _nodes_elsewhere(provider, session)
    heavy = ", ".join(f"{count} {op}" for op, count in elsewhere.items() if op in _HEAVY)
    if heavy:
        raise UsageError(
            f"{_ASKED[provider]}: ONNX Runtime's {name} left {heavy} of the network to other providers",
            "Choose another --backend, --device or --precision.",
        )
    return Opened(session, "cuda", choice, _emulation(provider, precision))


def _session(graph: Graph, provider: str, precision: Precision, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that go on spinning after a run slow down whatever the process does next, another runtime for one:
    # measured alternately on 2 cores, latencies varied by 36 % with it and by 13 % without, at the same median.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    source: Path | bytes = graph.file
    if provider == "cpu":
        _register_allocator()
        options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            source = loadable_on_cpu(graph.file, threads)
        except (DecodeError, RuntimeError, TypeError, ValueError) as error:
            raise unreadable(graph.file, str(error)) from None
        folder = str(graph.file.absolute().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    if provider != "cpu":
        _preload(provider)
    # What goes wrong with a provider becomes our own error; the native log would only repeat it.
    ort.set_default_logger_severity(_FATAL_ONLY)
    providers = _listed(provider, graph)
    try:
        with time_limit(f"opening {graph.file}"):
            return ort.InferenceSession(source, options, providers=providers, enable_fallback=False)
    except _REFUSED as error:
        if provider == "cpu" and not isinstance(error, ort_errors.NotImplemented):
            raise unreadable(graph.file, _reason(error)) from None
        raise _CannotComputeError(
            f"ONNX Runtime's {PROVIDERS[provider]} cannot compute {graph.file}: {_reason(error)}",
            "Try another --backend, another --device or another --precision.",
        ) from None
    except RuntimeError as error:  # with a provider of a GPU: its libraries are missing
        if provider == "cpu":
            raise unreadable(graph.file, _reason(error)) from None
        raise _not_loaded(provider, f"({_reason(error)})") from None
    finally:
        ort.set_default_logger_severity(_DEFAULT_SEVERITY)


@functools.cache
def _register_allocator() -> None:
    """One arena for the CPU sessions of this process, in chunks as large as they are asked for.

    By default chunks double in size, and one small tensor that stays keeps all of one: after 12 megapixels 440 MB are
    not given back where this keeps 140 MB, at the same speed.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    same_as_requested, default = 1, -1
    chunks = {
        "max_mem": 0,
        "arena_extend_strategy": same_as_requested,
        "initial_chunk_size_bytes": 2**20,
        "max_dead_bytes_per_chunk": default,
        "initial_growth_chunk_size_bytes": 2**20,
    }
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg(chunks))


def _listed(provider: str, graph: Graph) -> list[Any]:
    """The provider and the ones that may take the small nodes it leaves; the CPU's is always behind them."""
    if provider != "tensorrt":
        return [PROVIDERS[provider]]
    cache = engine_cache(graph)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ProtosegError(
            f"cannot create the folder for TensorRT's engines, {cache}: {error.strerror}",
            "Make its place writable. Beside a graph that is read-only as a whole, XDG_CACHE_HOME is used instead.",
        ) from None
    # No flag for a precision: without one the provider builds a strongly typed network, as the graph says.
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }
    return [(PROVIDERS["tensorrt"], options), PROVIDERS["cuda"]]


def _preload(provider: str) -> None:
    """Find the libraries that came with Python packages. What is missing shows when the provider is loaded."""
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
    if provider == "tensorrt":
        with contextlib.suppress(ImportError, OSError):
            import tensorrt  # noqa: F401 - loads libnvinfer, which ONNX Runtime then finds


def _reason(error: Exception) -> str:
    """The sentence of a native error, without the place in its source."""
    lines = str(error).rpartition("failed:")[2].strip().splitlines() or ["no reason given"]
    return lines[0].rpartition("&) ")[2][:200]


def _not_loaded(provider: str, detail: str) -> UsageError:
    return UsageError(
        f"{_ASKED[provider]}: ONNX Runtime cannot load its {PROVIDERS[provider]} {detail}",
        "It needs TensorRT 10 beside CUDA and cuDNN: `pip install 'tensorrt<11'`. Or use --backend onnxruntime."
        if provider == "tensorrt"
        else "Use --device cpu, or check driver, CUDA and cuDNN.",
    )


def _nodes_elsewhere(provider: str, session: Any) -> dict[str, int]:
    parts = session.get_provider_graph_assignment_info()
    return dict(Counter(n.op_type for p in parts if p.ep_name != PROVIDERS[provider] for n in p.get_nodes()))


def _emulation(provider: str, precision: Precision) -> str:
    how = SPECS[precision].emulated_by.get(provider)
    return f"{precision} emulated: {how}" if how else ""
