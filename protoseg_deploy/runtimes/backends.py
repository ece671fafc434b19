"""Inference backends for ONNX graphs, in one table."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.choices import BACKENDS, Backend, Precision
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime
from protoseg_deploy.runtimes.onnx import OnnxRuntime

Opener = Callable[[Path, str, int | None, Precision | None], Runtime]
"""From a bundle folder or ``.onnx`` file, a device, a number of threads and a precision; see `open_runtime`."""


@dataclass(frozen=True)
class BackendSpec:
    """One inference backend."""

    open: Opener
    library: str = ""
    """Name of its verdicts in a bundle, see `verified_as`; empty: those of the graphs are of this backend."""
    next_step: str = ""
    """What to do where a graph fails under it and does not fail under ONNX Runtime."""


def _open_onnxruntime(path: Path, device: str, threads: int | None, precision: Precision | None) -> Runtime:
    return OnnxRuntime(path, device=device, threads=threads, precision=precision)


def _open_tensorrt_ep(path: Path, device: str, threads: int | None, precision: Precision | None) -> Runtime:
    return OnnxRuntime(path, device=device, threads=threads, precision=precision, tensorrt=True)


def _open_openvino(path: Path, device: str, threads: int | None, precision: Precision | None) -> Runtime:
    if device == "cuda":
        raise UsageError("--backend openvino runs on the CPU: it cannot be combined with --device cuda")
    from protoseg_deploy.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(path, threads=threads, precision=precision)


SPECS: Mapping[Backend, BackendSpec] = {
    "onnxruntime": BackendSpec(_open_onnxruntime),
    "tensorrt-ep": BackendSpec(
        _open_tensorrt_ep, "tensorrt-ep", "Run this precision with ONNX Runtime's CUDA provider, or build an engine."
    ),
    "openvino": BackendSpec(
        _open_openvino,
        "openvino",
        "Run this precision with ONNX Runtime, or another with OpenVINO: BUNDLE@fp32@openvino.",
    ),
}
assert tuple(SPECS) == BACKENDS
