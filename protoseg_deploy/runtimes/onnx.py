"""An exported graph under ONNX Runtime."""

import contextlib
import io
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.base import RuntimeInfo, UInt8Array, check_images
from protoseg_deploy.runtimes.manifest import GRAPH_FILE, Manifest, check_file, read_manifest
from protoseg_deploy.runtimes.metadata import GraphMetadata

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_UNREADABLE = (
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


class OnnxRuntime:
    """A bundle folder, or one ``.onnx`` file of this program, under ONNX Runtime.

    A graph that does not run where it was asked to is an error: ONNX Runtime itself would fall back to the CPU and
    only log it.

    Args:
        path: a bundle folder (its graph is compared with its checksum), or an ``.onnx`` file.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if the graph really runs there, else the CPU;
            ``info.details`` says which and why.
        threads: intra-op threads of the CPU provider; the same number as PyTorch's when absent.

    Raises:
        ProtosegError: not an ONNX file, damaged, changed, or not written by this program.
        UsageError: the device is not there.
    """

    def __init__(self, path: Path, *, device: str = "auto", threads: int | None = None) -> None:
        manifest: Manifest | None = None
        graph = path
        if path.is_dir():
            manifest = read_manifest(path)
            graph = check_file(path, manifest, GRAPH_FILE)
        # The same default as PyTorch, so that the two are compared on equal terms.
        self._threads = threads or torch.get_num_threads()
        self._session, self._device, choice = _open(graph, device, self._threads)
        self._metadata = GraphMetadata.from_properties(self._session.get_modelmeta().custom_metadata_map, str(graph))
        on_cpu = _nodes_on_cpu(self._session) if self._device == "cuda" else {}
        self._info = RuntimeInfo(
            kind="onnx",
            path=path,
            classes=self._metadata.classes.table(),
            ignore_index=self._metadata.ignore_index,
            precision=self._metadata.precision,
            device=self._device,
            backend=f"ONNX Runtime {ort.__version__}, {self._session.get_providers()[0]}",
            threads=self._threads,
            parameters=self._metadata.parameters,
            file_bytes=graph.stat().st_size,
            fixed_size=self._metadata.fixed_size,
            verified=manifest.verification.passed if manifest and manifest.verification else None,
            details={"device_asked": device, "device_choice": choice, "nodes_on_cpu": on_cpu},
        )

    @property
    def info(self) -> RuntimeInfo:
        return self._info

    @property
    def metadata(self) -> GraphMetadata:
        return self._metadata

    @property
    def output_names(self) -> list[str]:
        return [output.name for output in self._session.get_outputs()]

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`."""
        check_images(images, self._info)
        class_map: UInt8Array = self._session.run(["class_map"], {"images": np.ascontiguousarray(images)})[0]
        return class_map

    def bind(self, images: UInt8Array) -> Callable[[], Any]:
        """See `Runtime.bind`; the call returns the class map as an OrtValue on the device, the same at every call."""
        check_images(images, self._info)
        batch, height, width = images.shape[:3]
        dtype = np.uint8 if len(self._info.classes) <= 256 else np.int32
        # On the CPU the OrtValue only borrows the array: it must live as long as the call.
        kept = np.ascontiguousarray(images)
        source = ort.OrtValue.ortvalue_from_numpy(kept, self._device, 0)
        target = ort.OrtValue.ortvalue_from_shape_and_type([batch, height, width], dtype, self._device, 0)
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("images", source)
        binding.bind_ortvalue_output("class_map", target)

        def run(_kept: UInt8Array = kept) -> Any:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return target

        return run


def _open(graph: Path, device: str, threads: int) -> tuple[Any, str, str]:
    """Session, device it runs on, and why that one."""
    if device == "cpu":
        return _session(graph, "cpu", threads), "cpu", "asked for"
    if device == "cuda":
        session = _session(graph, "cuda", threads)
        fault = _not_on_gpu(session)
        if fault:
            raise UsageError(f"--device cuda: {fault}", "Use --device cpu, or check driver, CUDA and cuDNN.")
        return session, "cuda", "asked for"
    if not torch.cuda.is_available():
        return _session(graph, "cpu", threads), "cpu", "no GPU found"
    session = _session(graph, "cuda", threads)
    fault = _not_on_gpu(session)
    if fault:
        return _session(graph, "cpu", threads), "cpu", fault
    return session, "cuda", "GPU found"


def _session(graph: Path, device: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    # Threads that go on spinning after a run slow down whatever the process does next, another runtime for one:
    # measured in turns on 2 cores, latencies varied by 36 % with it and by 13 % without, at the same median.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [_PROVIDERS[device]]
    if device == "cuda":
        # Finds CUDA and cuDNN where PyTorch brought them along. It prints what it misses, but not here.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()
    # What goes wrong with a provider becomes our own error; the native log would only repeat it.
    ort.set_default_logger_severity(_FATAL_ONLY)
    try:
        session = ort.InferenceSession(graph, options, providers=providers)
    except _UNREADABLE as error:
        raise _unreadable(graph, error) from None
    finally:
        ort.set_default_logger_severity(_DEFAULT_SEVERITY)
    session.disable_fallback()
    return session


def _unreadable(graph: Path, error: Exception) -> ProtosegError:
    if not graph.is_file():
        return ProtosegError(f"no such file: {graph}")
    reason = str(error).rpartition("failed:")[2].strip().splitlines()[0][:200]
    return ProtosegError(
        f"{graph} cannot be loaded as an ONNX model: {reason}",
        "It is damaged, cut off or no ONNX file at all: copy or export it again.",
    )


def _not_on_gpu(session: Any) -> str:
    """Why a session does not run on the GPU; empty if it does."""
    if session.get_providers()[0] != _PROVIDERS["cuda"]:
        return "ONNX Runtime cannot load its CUDA provider and would compute on the CPU"
    heavy = {name: count for name, count in _nodes_on_cpu(session).items() if name in _HEAVY}
    if heavy:
        listed = ", ".join(f"{count} {name}" for name, count in heavy.items())
        return f"ONNX Runtime left {listed} of the network on the CPU"
    return ""


def _nodes_on_cpu(session: Any) -> dict[str, int]:
    """Nodes by operator that the CPU provider took."""
    parts = session.get_provider_graph_assignment_info()
    return dict(Counter(n.op_type for p in parts if p.ep_name == _PROVIDERS["cpu"] for n in p.get_nodes()))
