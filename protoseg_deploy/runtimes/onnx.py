"""An exported graph under ONNX Runtime."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT, check_class_map
from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.choices import Precision
from protoseg_deploy.runtimes.base import RuntimeInfo, TimedPrediction, UInt8Array, check_images
from protoseg_deploy.runtimes.device_buffers import DeviceBuffers
from protoseg_deploy.runtimes.providers import engine_cache, open_session, run_session
from protoseg_deploy.runtimes.stopwatch import Mark, no_mark, timed_on_host


class OnnxRuntime:
    """A graph of a bundle, or one ``.onnx`` file of this program, under ONNX Runtime.

    A graph that does not run where it was asked to is an error: ONNX Runtime itself would fall back and only log it.
    ``info.emulated`` says what is computed in other types than those of the graph: on a CPU that is fp16 and
    bf16, whose class maps are right there and whose latency means nothing.

    Args:
        path: a bundle folder, or an ``.onnx`` file; what belongs to a bundle is compared with its checksum.
        device: ``cpu``, ``cuda``, or ``auto``: the GPU if the graph really runs there, else the CPU;
            ``info.device_choice`` says why.
        threads: intra-op threads of the CPU provider; the same number as PyTorch's when absent.
        precision: of the graph of a bundle folder; fp32 when absent.
        tensorrt: by ONNX Runtime's TensorRT provider instead of the CUDA one. The first call at a new size builds an
            engine, which is kept in ``info.engine_cache``.

    Raises:
        ProtosegError: not an ONNX file, damaged, changed, or not written by this program.
        UsageError: the device, the provider or the precision is not there.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        precision: Precision | None = None,
        tensorrt: bool = False,
    ) -> None:
        # Verdicts of a bundle are of the CPU and CUDA providers; what TensorRT makes of a graph nobody has compared.
        graph, self._metadata = open_graph(path, precision, library="tensorrt-ep" if tensorrt else "")
        # The same default as PyTorch, so that the two are compared on equal terms.
        threads = threads or torch.get_num_threads()
        opened = open_session(graph, self._metadata.precision, device, threads, tensorrt)
        graph.require_unchanged()
        self._session = opened.session
        self._builds = tensorrt
        self._buffers: DeviceBuffers | None = None
        self._kept_pixels: int | None = None
        self._info = RuntimeInfo(
            kind="onnx",
            path=path,
            classes=self._metadata.classes.table(),
            ignore_index=self._metadata.ignore_index,
            precision=self._metadata.precision,
            device=opened.device,
            backend=f"ONNX Runtime {ort.__version__}, {self._session.get_providers()[0]}",
            threads=threads,
            parameters=self._metadata.parameters,
            file_bytes=graph.bytes,
            files=graph.files,
            reading=self._metadata.reading,
            masks=graph.manifest.mask_reading() if graph.manifest else None,
            fixed_size=self._metadata.fixed_size,
            verified=graph.verified,
            emulated=opened.emulated,
            device_choice=opened.choice,
            engine_cache=engine_cache(graph) if tensorrt else None,
        )

    @property
    def info(self) -> RuntimeInfo:
        return self._info

    @property
    def metadata(self) -> GraphMetadata:
        return self._metadata

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`. On a GPU images of the size of the last call go into the same device memory.

        Raises:
            ProtosegError: ONNX Runtime fails on the graph, or what it gives is no class map of these images.
            TimeLimitError: it does not return, see `protoseg_deploy.time_limit`.
        """
        return self._predict(images, no_mark)

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """See `Runtime.predict_timed`. A CPU computes where the arrays lie: nothing is copied."""
        return timed_on_host(lambda mark: self._predict(images, mark))

    def _predict(self, images: UInt8Array, mark: Mark) -> UInt8Array:
        check_images(images, self._info)
        class_map: UInt8Array
        if self._info.device == "cpu":
            arrays = {INPUT: np.ascontiguousarray(images)}
            mark()
            mark()
            class_map = self._call(lambda options: self._session.run([CLASS_MAP], arrays, options), images)[0]
            mark()
            mark()
        else:
            if self._buffers is None or self._buffers.shape != images.shape:
                self._buffers = None  # the old ones are gone before the new ones are made
                self._buffers = self._allocate(images)
            class_map = self._buffers.compute(images, mark)
        check_class_map(class_map, images, len(self._info.classes), self._info.path)
        return class_map

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `GraphRuntime.outputs`."""
        return tuple(output.name for output in self._session.get_outputs())

    def compute(self, images: UInt8Array, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `GraphRuntime.compute`. Raises as `predict`."""
        if tuple(outputs) == (CLASS_MAP,):
            return {CLASS_MAP: self.predict(images)}
        check_images(images, self._info)
        arrays = {INPUT: np.ascontiguousarray(images)}
        found = self._call(lambda options: self._session.run(list(outputs), arrays, options), images)
        named = dict(zip(outputs, found, strict=True))
        if CLASS_MAP in named:
            check_class_map(named[CLASS_MAP], images, len(self._info.classes), self._info.path)
        return named

    def release_memory_above(self, pixels: int) -> None:
        """On a CPU: from now on give memory back to the system after each call with more pixels than that.

        ONNX Runtime keeps the most that a call has needed: 1.7 GB after 12 megapixels of a small network. Giving it
        back makes such a call take about 15 % longer.
        """
        self._kept_pixels = pixels

    def _call(self, run: Callable[[Any], Any], images: UInt8Array | None = None) -> Any:
        """Run the session; a call that takes too long is told to stop."""

        def run_and_release(options: Any) -> Any:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            return run(options)

        large = images is not None and self._kept_pixels is not None and images.size // 3 > self._kept_pixels
        release = large and self._info.device == "cpu"
        return run_session(run_and_release if release else run, self._info.path, times=10 if self._builds else 1)

    def _allocate(self, images: UInt8Array) -> DeviceBuffers:
        dtype = np.uint8 if len(self._info.classes) <= 256 else np.int32
        return DeviceBuffers(self._session, images.shape, dtype, self._info.device, self._call)
