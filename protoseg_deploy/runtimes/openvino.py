"""An exported graph under OpenVINO, on the CPU."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from protoseg_deploy.bundles.contract import check_class_map
from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.graph import Graph
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.base import RuntimeInfo, TimedPrediction, UInt8Array, check_images
from protoseg_deploy.runtimes.stopwatch import Mark, no_mark, timed_on_host
from protoseg_deploy.time_limit import time_limit

_HEAVY = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul", "GroupConvolution"})
"""Its names of the layers that decide what a network costs."""
_OTHER = "Use --backend onnxruntime, or another --precision."
_WITHOUT_BF16 = frozenset({"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"})
"""Values of oneDNN's variable that keep OpenVINO's kernels from bf16, whatever the processor has."""


class OpenVinoRuntime:
    """A graph of a bundle, or one ``.onnx`` file of this program, under OpenVINO on the CPU.

    OpenVINO by itself lowers fp32 graphs to bf16 where the processor has it. Here the graph's own precision is asked
    for, so that what was verified is what runs. fp16 is computed in fp32 where the processor lacks it, and
    ``info.emulated`` says so; bf16 is refused there. ``info.layer_types`` counts what
    convolutions and matrix products really run in. Two things differ from the letter of a graph. Of a bf16 graph also
    the few nodes kept in fp32 are computed in bf16: faster, and over all families as close to fp32. Of an int8 graph
    OpenVINO fuses the rescaling its own way, so that its class maps differ from ONNX Runtime's by more than rounding.
    So OpenVINO has verdicts of its own: ``protoseg verify --backend openvino``.

    Args:
        path: a bundle folder, or an ``.onnx`` file; what belongs to a bundle is compared with its checksum.
        threads: the same number as PyTorch's when absent.
        precision: of the graph of a bundle folder; fp32 when absent.

    Raises:
        ProtosegError: not an ONNX file, damaged, changed, not written by this program, or OpenVINO cannot run it.
        UsageError: OpenVINO is not installed, the bundle has no such precision, or the processor no bf16 for it.
    """

    def __init__(self, path: Path, *, threads: int | None = None, precision: Precision | None = None) -> None:
        openvino = _load_openvino()
        graph, self._metadata = open_graph(path, precision, library="openvino")
        core = shared_core()
        computed = _computed_types(core)
        if self._metadata.precision == "bf16" and "BF16" not in computed:
            raise UsageError(
                f"{graph.file}: {_NO_BF16}", "Use --backend onnxruntime, which emulates it, or --precision fp32."
            )
        hint = _hint(self._metadata.precision, computed)
        compiled = _compile(core, graph, hint, threads or torch.get_num_threads())
        graph.require_unchanged()
        self._request = compiled.create_infer_request()
        self._tensor: Callable[..., Any] = openvino.Tensor
        self._outputs = tuple(output.get_any_name() for output in compiled.outputs)
        layers = _layer_types(compiled)
        self._info = RuntimeInfo(
            kind="openvino",
            path=path,
            classes=self._metadata.classes.table(),
            ignore_index=self._metadata.ignore_index,
            precision=self._metadata.precision,
            device="cpu",
            backend=f"OpenVINO {openvino.__version__.partition('-')[0]}, {hint}",
            threads=int(compiled.get_property("INFERENCE_NUM_THREADS")),
            parameters=self._metadata.parameters,
            file_bytes=graph.bytes,
            files=graph.files,
            reading=self._metadata.reading,
            masks=graph.manifest.mask_reading() if graph.manifest else None,
            fixed_size=self._metadata.fixed_size,
            verified=graph.verified,
            emulated=_emulation(self._metadata.precision, layers),
            layer_types=layers,
        )

    @property
    def info(self) -> RuntimeInfo:
        return self._info

    @property
    def metadata(self) -> GraphMetadata:
        return self._metadata

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`."""
        return self._predict(images, no_mark)

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """See `Runtime.predict_timed`."""
        return timed_on_host(lambda mark: self._predict(images, mark))

    def _predict(self, images: UInt8Array, mark: Mark) -> UInt8Array:
        check_images(images, self._info)
        tensor = self._tensor(np.require(images, requirements=["C", "W"]), shared_memory=True)
        mark()
        self._request.set_tensor("images", tensor)
        mark()
        try:
            with time_limit(f"a call of {self._info.path}"):
                self._request.infer()
        except RuntimeError as error:
            raise ProtosegError(f"OpenVINO cannot compute {self._info.path}: {_reason(error)}", _OTHER) from None
        mark()
        # OpenVINO's own memory is written again by the next call.
        class_map: UInt8Array = np.array(self._request.get_tensor("class_map").data)
        mark()
        check_class_map(class_map, images, len(self._info.classes), self._info.path)
        return class_map

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `GraphRuntime.outputs`."""
        return self._outputs

    def compute(self, images: UInt8Array, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `GraphRuntime.compute`."""
        class_map = self.predict(images)
        others = {name: np.array(self._request.get_tensor(name).data) for name in outputs if name != "class_map"}
        return others | ({"class_map": class_map} if "class_map" in outputs else {})


_NO_BF16 = "OpenVINO cannot compute bf16 on this processor"


def why_no_bf16() -> str | None:
    """Why a bf16 graph would be refused on this machine; None where it would run, or OpenVINO is not installed."""
    try:
        core = shared_core()
    except UsageError:
        return None
    return None if "BF16" in _computed_types(core) else _NO_BF16


def _computed_types(core: Any) -> frozenset[str]:
    """What the CPU has kernels for, as OpenVINO names it: FP32, BF16, FP16, INT8 and more.

    Of bf16 OpenVINO asks the processor. Its kernels are oneDNN's, which obey a variable of the environment, and without
    one a bf16 graph is refused when it is compiled, or ends the process.
    """
    types = frozenset(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return types - {"BF16"} if limit.upper() in _WITHOUT_BF16 else types


@cache
def shared_core() -> Any:
    """The one core of this process, which never goes.

    Each gives the thread that makes it a stack for signal handlers, and the one before back when it goes. Of two, the
    one that goes last may bring back a stack that is gone, and the next signal, such as Ctrl-C, ends the process.
    """
    return _load_openvino().Core()


def _load_openvino() -> Any:
    try:
        import openvino
    except ImportError:
        raise UsageError(
            "--backend openvino: OpenVINO is not installed", "pip install 'protoseg-deploy[openvino]'"
        ) from None
    return openvino


def _hint(precision: Precision, computed: frozenset[str]) -> str:
    """Type to compute in what the graph leaves in floating point: its own, or fp32 where the processor lacks that.

    Asked for fp16 on a processor without it OpenVINO would take bf16, which keeps three bits less.
    """
    return SPECS[precision].openvino_hint if precision.upper() in computed else "f32"


def _compile(core: Any, graph: Graph, hint: str, threads: int) -> Any:
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # else OpenVINO caps the threads at the number of physical cores
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
    }
    try:
        with time_limit(f"opening {graph.file}"):
            return core.compile_model(str(graph.file), "CPU", settings)
    except RuntimeError as error:
        raise ProtosegError(f"OpenVINO cannot run {graph.file}: {_reason(error)}", _OTHER) from None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if line and not line.startswith("Exception from")), "no reason given")[:200]


def _layer_types(compiled: Any) -> dict[str, int]:
    """Convolutions and matrix products by the type they are computed in."""
    counts: Counter[str] = Counter()
    for layer in compiled.get_runtime_model().get_ordered_ops():
        info = layer.get_rt_info()
        if info["layerType"].astype(str) in _HEAVY:
            counts[info["runtimePrecision"].astype(str)] += 1
    return dict(counts)


def _emulation(precision: Precision, layers: dict[str, int]) -> str:
    if not layers or SPECS[precision].openvino_names & layers.keys():
        return ""
    return f"{precision} not computed as such on this processor: OpenVINO computes in {', '.join(layers)}"
