"""A built engine as a runtime."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT, check_class_map
from protoseg_deploy.bundles.finding import bundle_in, check_described
from protoseg_deploy.bundles.manifest import ENGINE_FOLDER, Manifest
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import RuntimeInfo, TimedPrediction, UInt8Array, check_images
from protoseg_deploy.runtimes.stopwatch import Mark, no_mark, timed_on_gpu
from protoseg_deploy.runtimes.tensorrt.launching import Binding, Launcher, record_cuda_graph
from protoseg_deploy.runtimes.tensorrt.library import load_library, open_log
from protoseg_deploy.runtimes.tensorrt.loading import deserialize, open_context, output_types
from protoseg_deploy.runtimes.tensorrt.memory import GrowingBuffer, usable_in_place
from protoseg_deploy.runtimes.tensorrt.sidecar import (
    EngineSidecar,
    check_engine_file,
    check_gpu,
    check_shape,
    check_version,
    read_sidecar,
    sidecar_file,
)
from protoseg_deploy.time_limit import time_limit

_INPUT, _CLASS_MAP = INPUT, CLASS_MAP


class TensorRTRuntime:
    """An ``.engine`` file written by ``protoseg build``, on the current GPU.

    It computes on a stream of its own. A batch travels through page-locked memory; one that lies on the GPU already
    (`predict_tensor`) is read where it lies. While one shape repeats, its launch is replayed from a CUDA graph.

    Args:
        path: the engine; its sidecar lies beside it.
        cuda_graph: replay launches of a repeated shape from a CUDA graph.

    Raises:
        ProtosegError: the engine or its sidecar is missing, damaged, changed, or not that of the bundle around it.
        UsageError: there is no GPU, another one than it was built for, or no library of its version.
    """

    def __init__(self, path: Path, *, cuda_graph: bool = True) -> None:
        sidecar = read_sidecar(path)
        check_engine_file(path, sidecar)
        manifest = bundle_of(path, sidecar)
        if not torch.cuda.is_available():
            raise UsageError(
                f"{path} runs on an NVIDIA GPU, and PyTorch finds none here",
                "Run it on the machine it was built for, or use the ONNX graph of the bundle.",
            )
        library = load_library(sidecar.engine)
        gpu = torch.cuda.get_device_name()
        check_version(path, sidecar, str(library.__version__))
        check_gpu(path, sidecar, torch.cuda.get_device_capability(), gpu)
        self._path, self._sidecar = path, sidecar
        self._device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        log = open_log(library)
        self._runtime, engine = deserialize(library, log, path, sidecar)
        self._outputs = output_types(library, engine, path, sidecar.metadata)
        # TensorRT-RTX records launches by itself, for every shape.
        recorded = cuda_graph and sidecar.engine == "tensorrt"
        record = functools.partial(record_cuda_graph, self._stream) if recorded else None
        context = open_context(library, engine, sidecar, cuda_graph)
        self._launcher = Launcher(context, log, path, _INPUT, self._stream.cuda_stream, record)
        self._placed: Binding | None = None
        self._buffers = {_INPUT: GrowingBuffer(torch.uint8, self._device)}
        self._buffers.update((name, GrowingBuffer(dtype, self._device)) for name, dtype in self._outputs.items())
        self._host_images = GrowingBuffer(torch.uint8, None)
        self._host_outputs = {name: GrowingBuffer(dtype, None) for name, dtype in self._outputs.items()}
        self._info = _info(path, sidecar, gpu, manifest)
        self._cuda_graph = cuda_graph

    @property
    def info(self) -> RuntimeInfo:
        replayed = self._cuda_graph and (self._sidecar.engine == "tensorrt-rtx" or self._launcher.records)
        return replace(self._info, cuda_graph=replayed)

    @property
    def metadata(self) -> GraphMetadata:
        return self._sidecar.metadata

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`.

        Raises:
            ProtosegError: TensorRT fails on the engine, or what it gives is no class map of these images.
        """
        class_map: UInt8Array = self.compute(images, (_CLASS_MAP,))[_CLASS_MAP]
        return class_map

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """See `Runtime.predict_timed`."""

        def predict(mark: Mark) -> UInt8Array:
            class_map: UInt8Array = self._compute(images, (_CLASS_MAP,), mark)[_CLASS_MAP]
            return class_map

        return timed_on_gpu(predict, self._stream)

    @property
    def outputs(self) -> tuple[str, ...]:
        """See `GraphRuntime.outputs`."""
        return tuple(self._outputs)

    def compute(self, images: UInt8Array, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See `GraphRuntime.compute`. Raises as `predict`."""
        return self._compute(images, outputs, no_mark)

    def _compute(self, images: UInt8Array, outputs: Sequence[str], mark: Mark) -> dict[str, NDArray[Any]]:
        self._check(images)
        staged = self._host_images.view(images.shape)
        staged.numpy()[...] = images
        binding = self._placed_binding(images.shape)
        found = {name: self._host_outputs[name].view(tuple(binding.outputs[name].shape)) for name in outputs}
        with time_limit(f"a call of {self._path}"):
            with torch.cuda.stream(self._stream):
                mark()
                binding.images.copy_(staged, non_blocking=True)
                mark()
                self._launcher.launch(binding)
                mark()
                for name, tensor in found.items():
                    tensor.copy_(binding.outputs[name], non_blocking=True)
                mark()
            self._stream.synchronize()
        # The memory is written again by the next call.
        arrays: dict[str, NDArray[Any]] = {name: tensor.numpy().copy() for name, tensor in found.items()}
        if _CLASS_MAP in arrays:
            check_class_map(arrays[_CLASS_MAP], images, len(self._info.classes), self._path)
        return arrays

    def predict_tensor(self, images: Tensor) -> Tensor:
        """Class maps of images that are on the GPU, without a copy, without waiting, and unchecked.

        Args:
            images: ``[B,H,W,3]`` uint8 RGB on the GPU of this runtime. It is copied only if it is not contiguous
                or does not start at a multiple of 256 bytes.

        Returns:
            ``[B,H,W]`` class indices on the GPU, ready for whatever follows on the current stream.

        Raises:
            UsageError: another device, type or shape than the engine takes.
        """
        if images.device != self._device or images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise UsageError(
                f"predict_tensor takes uint8 [batch, height, width, 3] on {self._device}; "
                f"got {images.dtype} {list(images.shape)} on {images.device}"
            )
        self._check_shape(tuple(images.shape))
        caller = torch.cuda.current_stream(self._device)
        if not usable_in_place(images):
            images = images.clone(memory_format=torch.contiguous_format)
        binding = self._new_binding(images)
        self._stream.wait_stream(caller)
        with torch.cuda.stream(self._stream):
            self._launcher.launch(binding)
        caller.wait_stream(self._stream)
        for tensor in (images, *binding.outputs.values()):
            tensor.record_stream(self._stream)
        return binding.outputs[_CLASS_MAP]

    def _check(self, images: UInt8Array) -> None:
        check_images(images, self._info)
        self._check_shape(images.shape)

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        check_shape(self._path, self._sidecar.profile, (shape[0], shape[1], shape[2]))

    def _placed_binding(self, shape: tuple[int, ...]) -> Binding:
        """The buffers of this runtime at a shape; the same object as long as the shape stays."""
        if self._placed is None or self._placed.images.shape != shape:
            images = self._buffers[_INPUT].view(shape)
            shapes = self._launcher.output_shapes(shape, self._outputs)
            self._placed = Binding(images, {name: self._buffers[name].view(shapes[name]) for name in shapes})
            # New memory may have been freed just now by the caller, whose stream may still be at work in it.
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        return self._placed

    def _new_binding(self, images: Tensor) -> Binding:
        shapes = self._launcher.output_shapes(tuple(images.shape), self._outputs)
        outputs = {
            name: torch.empty(shapes[name], dtype=dtype, device=self._device) for name, dtype in self._outputs.items()
        }
        return Binding(images, outputs)


def _info(path: Path, sidecar: EngineSidecar, gpu: str, manifest: Manifest | None) -> RuntimeInfo:
    profile, metadata = sidecar.profile, sidecar.metadata
    return RuntimeInfo(
        kind="tensorrt",
        path=path,
        classes=metadata.classes.table(),
        ignore_index=metadata.ignore_index,
        precision=sidecar.precision,
        device="cuda",
        backend=f"{sidecar.library}, {gpu}",
        threads=torch.get_num_threads(),
        parameters=metadata.parameters,
        file_bytes=sidecar.engine_bytes,
        files=(path, sidecar_file(path)),
        reading=metadata.reading,
        masks=manifest.mask_reading() if manifest else None,
        fixed_size=profile.fixed_size(),
        size_range=(profile.min[1:], profile.max[1:]),
        batch_range=(profile.min[0], profile.max[0]),
        verified=manifest.verified(f"{ENGINE_FOLDER}/{path.name}") if manifest else None,
        layer_types=sidecar.layers.heavy,
        build_seconds=sidecar.build_seconds,
    )


def bundle_of(path: Path, sidecar: EngineSidecar) -> Manifest | None:
    """The manifest of the bundle around an engine that names it; None where there is none.

    Args:
        path: the engine, which has been compared with its sidecar.
        sidecar: of the engine.

    Raises:
        ProtosegError: the engine or its sidecar is not the file the bundle lists, though the two may fit each other.
    """
    in_bundle = path.absolute().parent.name == ENGINE_FOLDER
    bundle = bundle_in(path.absolute().parent.parent) if in_bundle else None
    name = f"{ENGINE_FOLDER}/{path.name}"
    if bundle is None or name not in bundle.manifest.files:
        return None
    bundle.file(name)
    if (described := f"{ENGINE_FOLDER}/{sidecar_file(path).name}") in bundle.manifest.files:
        bundle.file(described)
    entry = next((entry for entry in bundle.manifest.engines.values() if entry.file == name), None)
    check_described(path, entry.precision if entry else None, sidecar.metadata, bundle.manifest)
    return bundle.manifest
