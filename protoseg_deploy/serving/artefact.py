"""A file that is served: opened, checked, and described for clients."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.bundles.contract import CLASS_MAP, Port, graph_ports
from protoseg_deploy.bundles.finding import find_graph, open_graph
from protoseg_deploy.bundles.graph import Graph, read_graph
from protoseg_deploy.bundles.manifest import ENGINE_FOLDER, MANIFEST_FILE
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.choices import Backend, Precision
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.computing import check_batch
from protoseg_deploy.runtimes.backends import SPECS
from protoseg_deploy.runtimes.base import GraphRuntime, UInt8Array
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.tensorrt.sidecar import check_engine_file, read_sidecar

_KEPT_PIXELS = 4_000_000
"""Memory for larger batches is not kept for the next one."""
CLASS_MAP_PNG = "class_map_png"
"""Output that servers make of the class map: one palette PNG for each image, ``BYTES``."""
IMAGE_PNG = "image_png"
"""Output that servers make of the input: the pixels as the network gets them, one PNG for each image, ``BYTES``."""


NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
"""Names of models: what stands in an address as it is."""


@dataclass(frozen=True)
class ArtefactSpec:
    """What to serve and how."""

    path: Path
    """A bundle, or an ``.onnx`` or ``.engine`` file of one."""
    name: str
    """Of the model."""
    precision: Precision | None = None
    backend: Backend | None = None
    device: str = "auto"
    threads: int | None = None
    """Of each instance."""
    instances: int = 1
    allow_unverified: bool = False


@dataclass(frozen=True)
class Artefact:
    """An opened artefact with its instances."""

    spec: ArtefactSpec
    facts: ServiceFacts
    ports: tuple[Port, ...]
    """Outputs of the graph or engine."""
    instances: tuple[GraphRuntime, ...]
    device: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all that can be asked for."""
        png = (CLASS_MAP_PNG,) if len(self.facts.metadata.classes.names) <= 256 else ()
        return (*(port.name for port in self.ports), *png, IMAGE_PNG)

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width that it takes; None: more than one."""
        return self.instances[0].info.fixed_size

    @property
    def size_range(self) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """Smallest and largest height and width of an engine; None: no such bound."""
        return self.instances[0].info.size_range

    def input_shape(self) -> tuple[int, int, int, int]:
        """Of ``images``; -1: any."""
        height, width = self.fixed_size or (-1, -1)
        return (-1, height, width, 3)

    def output_shape(self, port: Port) -> tuple[int, ...]:
        """As the protocol writes it; -1: any."""
        assert port.shape is not None
        return tuple(axis if isinstance(axis, int) else -1 for axis in port.shape)


class NotVerifiedError(UsageError):
    """An artefact that is not served because of its verdict.

    Args:
        message: see `ProtosegError`.
        hint: likewise.
        sha256: of the artefact.
        verified: its verdict.
    """

    def __init__(self, message: str, hint: str, sha256: str, verified: bool | None) -> None:
        super().__init__(message, hint)
        self.sha256, self.verified = sha256, verified


def open_artefact(spec: ArtefactSpec) -> Artefact:
    """Open all instances of an artefact and run each once, so that the first request does not wait.

    Raises:
        NotVerifiedError: it is not verified, and nobody allowed that.
        UsageError: it is no graph or engine, takes no single images, or see `open_runtime`.
        ProtosegError: it is damaged, or cannot be computed.
    """
    library = "" if _is_engine(spec.path) else SPECS[spec.backend or "onnxruntime"].library
    if not spec.path.exists():
        raise UsageError(f"there is no {spec.path}", "Check the path; a bundle is made by protoseg export.")
    if not _is_graph(spec.path) and not _is_engine(spec.path):
        raise UsageError(
            f"{spec.path} is not a bundle, nor an .onnx or .engine file",
            "A run is exported first: protoseg export RUN --bundle DIR.",
        )
    graph, metadata = _described(spec, library)
    if graph.verified is not True and not spec.allow_unverified:
        raise _not_verified(spec, graph, metadata, library)
    instances = tuple(_open_instance(spec) for _ in range(spec.instances))
    # What was checked above is what was opened, or the bundle was exchanged in between.
    if find_graph(spec.path, spec.precision, library=library).digest() != graph.digest():
        raise UsageError(f"{spec.path} was replaced while it was opened", "Try again.")
    info = instances[0].info
    if _is_engine(spec.path):
        ports = [_engine_port(name, metadata, info.fixed_size) for name in instances[0].outputs]
    else:
        _, ports = graph_ports(read_graph(graph.file).graph)
    facts = ServiceFacts.of(graph, metadata, info.backend)
    return Artefact(spec, facts, tuple(ports), instances, info.device)


def default_name(path: Path) -> str:
    """The name of a model that nobody named: its bundle's folder, without what cannot stand in an address."""
    place = path.resolve()
    folder = _bundle_folder(place) if place.suffix in (".onnx", ".engine") else place
    return "".join(sign if sign.isascii() and (sign.isalnum() or sign in "-_.") else "-" for sign in folder.name)


def bundle_identity(path: Path) -> frozenset[tuple[str, int, int, int]] | None:
    """Changes when a bundle is exchanged or verified; None: it is not there at the moment.

    Every file counts: a copy may bring the manifest long before the graph that it is about.
    """
    folder = _bundle_folder(path) if path.suffix in (".onnx", ".engine") else path
    found = set()
    try:
        (folder / MANIFEST_FILE).stat()
        for file in (*folder.iterdir(), *(path.parent.iterdir() if _is_engine(path) else ())):
            status = file.stat()
            if S_ISREG(status.st_mode):
                found.add((file.name, status.st_ino, status.st_size, status.st_mtime_ns))
    except OSError:
        return None
    return frozenset(found)


def compute_outputs(runtime: GraphRuntime, images: UInt8Array, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Outputs for a batch, see `GraphRuntime.compute`; what is made of them later does not count.

    A batch that is too large for an engine is computed in parts.
    """
    wanted = sorted({CLASS_MAP if name in (CLASS_MAP_PNG, IMAGE_PNG) else name for name in outputs})
    most = runtime.info.batch_range[1] if runtime.info.batch_range else len(images)
    if len(images) <= most:
        return runtime.compute(images, wanted)
    parts = [runtime.compute(images[start : start + most], wanted) for start in range(0, len(images), most)]
    return {name: np.concatenate([part[name] for part in parts]) for name in wanted}


def _not_verified(spec: ArtefactSpec, graph: Graph, metadata: GraphMetadata, library: str) -> NotVerifiedError:
    state = "has failed its verification" if graph.verified is False else "was never verified"
    backend = f" --backend {library}" if library else ""
    return NotVerifiedError(
        f"{spec.path} ({metadata.precision}) {state}{' with' if backend else ''}{backend}: it is not served",
        f"Run `protoseg verify {_bundle_folder(spec.path)} --images DIR{backend}`, or allow it with "
        "--allow-unverified: its metadata will tell clients.",
        graph.digest(),
        graph.verified,
    )


def _open_instance(spec: ArtefactSpec) -> GraphRuntime:
    runtime = open_runtime(
        spec.path, device=spec.device, threads=spec.threads, precision=spec.precision, backend=spec.backend
    )
    if not isinstance(runtime, GraphRuntime):
        raise UsageError(f"{spec.path} is not a graph: it cannot be served", "Serve a bundle or an .onnx file.")
    check_batch(runtime.info, None)
    if isinstance(runtime, OnnxRuntime):
        runtime.release_memory_above(_KEPT_PIXELS)
    height, width = runtime.info.fixed_size or (256, 256)
    if runtime.info.size_range is not None:
        (lowest, narrowest), (highest, widest) = runtime.info.size_range
        height, width = max(lowest, min(height, highest)), max(narrowest, min(width, widest))
    runtime.predict(np.full((1, height, width, 3), 127, np.uint8))
    return runtime


def _described(spec: ArtefactSpec, library: str) -> tuple[Graph, GraphMetadata]:
    """The files of a graph or an engine, and what it says of itself, both compared with the bundle around it."""
    if not _is_engine(spec.path):
        return open_graph(spec.path, spec.precision, library=library)
    graph = find_graph(spec.path)
    sidecar = read_sidecar(spec.path)
    check_engine_file(spec.path, sidecar)
    return graph, sidecar.metadata  # the runtime compares them with the manifest


def _engine_port(name: str, metadata: GraphMetadata, size: tuple[int, int] | None) -> Port:
    """An output of an engine, which was compared with the contract when it was opened."""
    classes = len(metadata.classes.names)
    axes = size or ("height", "width")
    if name == "logits":
        return Port(name, "float32", ("batch", classes, *axes))
    return Port(name, "uint8" if classes <= 256 or name != CLASS_MAP else "int32", ("batch", *axes))


def _bundle_folder(path: Path) -> Path:
    """The folder that is, or would be, the bundle of a file; a folder as it is."""
    if path.is_dir():
        return path
    folder = path.absolute().parent
    return folder.parent if path.suffix == ".engine" and folder.name == ENGINE_FOLDER else folder


def _is_engine(path: Path) -> bool:
    return path.suffix == ".engine" and not path.is_dir()


def _is_graph(path: Path) -> bool:
    return (path.is_dir() and (path / MANIFEST_FILE).is_file()) or path.suffix == ".onnx"
