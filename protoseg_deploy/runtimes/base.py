"""One protocol for everything that segments: a run, a compiled file, an engine, later a server."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.recipe import ClassTable, ImageReading, MaskReading

UInt8Array = NDArray[np.uint8]


@dataclass(frozen=True)
class RuntimeInfo:
    """What a runtime is and where it computes."""

    kind: Literal["pytorch", "onnx", "openvino", "tensorrt", "server"]
    """The library that computes; ``onnx`` is ONNX Runtime, ``server`` whatever a server computes with."""
    path: Path | str
    """File or folder; of a server the address of its model."""
    classes: ClassTable
    ignore_index: int
    precision: Precision
    device: str
    """``cpu`` or ``cuda``, the device really used, not the one wished for; ``remote`` for a server."""
    backend: str
    """Library, version and execution provider, for people."""
    threads: int
    """Of the CPU; 0 where nobody says."""
    parameters: int
    file_bytes: int
    files: tuple[Path, ...] = ()
    """The files that decide its class maps; see `artefact_sha256`."""
    sha256: str = ""
    """Of an artefact that a server has, as it says; see `Graph.digest`."""
    reading: ImageReading = field(default_factory=ImageReading)
    """How image files become the uint8 RGB that it takes."""
    masks: MaskReading | None = None
    """How masks that go with it are read; None where no bundle says so."""
    fixed_size: tuple[int, int] | None = None
    """Fixed input height and width of the artefact; None where any size works."""
    size_range: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Smallest and largest height and width of an engine's profile; None where there is no such bound."""
    batch_range: tuple[int, int] | None = None
    """Smallest and largest batch of an engine's profile; None where there is no such bound."""
    verified: bool | None = None
    """Verdict of the parity check stored with the artefact; None where there is none."""
    emulated: str = ""
    """Which types of the artefact are not computed as such here: its accuracy is that of the artefact, its latency is
    not. Empty where there are none."""
    device_choice: str = ""
    """Why it computes on this device, where there was a choice."""
    layer_types: Mapping[str, int] = field(default_factory=dict)
    """How many convolutions and matrix products compute in which type, where the library tells."""
    engine_cache: Path | None = None
    """Where ONNX Runtime's TensorRT provider keeps the engines that it builds."""
    cuda_graph: bool | None = None
    """Whether repeated launches are replayed from a CUDA graph; None where nothing is launched that way."""
    build_seconds: float | None = None
    """What building an engine took; None where nothing is built ahead."""


@dataclass(frozen=True)
class TimedPrediction:
    """One call of `Runtime.predict_timed`: class maps, and what its parts took in nanoseconds.

    Each span lies within the one above it.
    """

    class_map: UInt8Array
    arrays_ns: int
    """From uint8 images in host memory to class maps in host memory: the whole call. Of a server the request."""
    copies_ns: int | None = None
    """The computation with the copies to the device and back; None: nobody can tell, as of a server."""
    engine_ns: int | None = None
    """The computation alone: device time by events where it is launched on a CUDA stream, else the library's call."""
    launch_ns: int | None = None
    """Time of the host until everything was launched; None where the library returns only when it is done."""


class Runtime(Protocol):
    """Turns images into class maps. Implementations are used from one thread at a time."""

    @property
    def info(self) -> RuntimeInfo: ...

    def predict(self, images: UInt8Array) -> UInt8Array:
        """``[B,H,W,3]`` uint8 RGB to ``[B,H,W]`` class indices (uint8; int32 above 256 classes)."""
        ...

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """What `predict` does, with the times of its parts."""
        ...


@runtime_checkable
class GraphRuntime(Runtime, Protocol):
    """A runtime that gives all outputs of its graph, not only class maps."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names, ``class_map`` among them; see `protoseg_deploy.bundles.contract`."""
        ...

    def compute(self, images: UInt8Array, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Outputs for ``[B,H,W,3]`` uint8 RGB, by name; the class map is checked as `predict` checks it."""
        ...


def artefact_sha256(info: RuntimeInfo) -> str:
    """Digest of the file of an artefact, or over its files; of a server the one it gives; else empty.

    Raises:
        ProtosegError: a file is gone or cannot be read.
    """
    if info.sha256:
        return info.sha256
    try:
        digests = [file_sha256(file) for file in info.files]
    except OSError as error:
        raise ProtosegError(f"cannot read {error.filename or info.path}: {error.strerror or error}") from None
    if len(digests) < 2:
        return "".join(digests)  # as manifests and servers name it
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def check_images(images: UInt8Array, info: RuntimeInfo) -> None:
    """Refuse what is no batch of images, or of another size than a fixed-size runtime takes.

    Raises:
        UsageError: shape, dtype or size do not fit.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
        raise UsageError(
            f"images are uint8 RGB [batch, height, width, 3]; got {images.dtype} {list(images.shape)}",
        )
    size = (images.shape[1], images.shape[2])
    if info.fixed_size is not None and size != info.fixed_size:
        raise UsageError(
            f"{info.path} takes images of {info.fixed_size[0]}x{info.fixed_size[1]} pixels (height x width) only; "
            f"got {size[0]}x{size[1]}",
            "Export without --size for any size, or predict in tiles.",
        )
