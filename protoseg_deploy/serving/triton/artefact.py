"""Which file of a bundle Triton serves, and what is known of it."""

from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.contract import Port, graph_ports
from protoseg_deploy.bundles.finding import check_described, find_graph, open_graph
from protoseg_deploy.bundles.graph import Graph, read_graph
from protoseg_deploy.bundles.manifest import EngineEntry
from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.tensorrt.sidecar import Profile, check_engine_file, read_sidecar
from protoseg_deploy.serving.triton.options import MOST_WARMUP_PIXELS, ModelOptions


@dataclass(frozen=True)
class TritonArtefact:
    """A graph or an engine with what its model says of it."""

    graph: Graph
    """Its files, compared with their checksums."""
    facts: ServiceFacts
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    profile: Profile | None = None
    """Shapes that an engine takes."""

    @property
    def files(self) -> dict[str, Path]:
        """Paths by the names that Triton's backends look for. A file of weights keeps its name, which the graph says.

        Returns:
            ``model.onnx``, and its weights where they lie outside; or ``model.plan``.
        """
        name = "model.onnx" if self.profile is None else "model.plan"
        return {name: self.graph.file} | {file.name: file for file in self.graph.files if file != self.graph.file}

    def warmup_size(self, options: ModelOptions) -> tuple[int, int]:
        """Height and width of the warm-up image, the wished ones where the artefact leaves the choice."""
        fixed = self.facts.metadata.fixed_size
        if fixed is not None:
            return fixed
        if self.profile is None:
            return options.warmup_size or options.default_warmup_size
        smallest, largest = self.profile.min[1:], self.profile.max[1:]
        height, width = (
            min(max(side, least), most)
            for side, least, most in zip(options.warmup_size or self.profile.opt[1:], smallest, largest, strict=True)
        )
        return height, width


def find_artefact(
    path: Path, options: ModelOptions, precision: Precision | None = None, engine: str | None = None
) -> TritonArtefact:
    """The artefact of a bundle that a backend of Triton computes.

    Args:
        path: of the bundle.
        options: backend, device, and whether unverified artefacts are served.
        precision: of the graph or engine; fp32, or that of the only engine, when absent.
        engine: name of an engine in the manifest, where there are several.

    Raises:
        UsageError: the bundle has no such artefact, it cannot run there, or it is not verified.
        ProtosegError: the folder is no bundle, or a file is missing, damaged or changed.
    """
    if options.backend == "openvino" and options.gpu:
        raise UsageError("--backend openvino runs on the CPU: it cannot be combined with --gpu")
    if options.backend == "tensorrt":
        artefact = _engine(Bundle.open(path), precision, engine)
    elif engine is not None:
        raise UsageError(f"--engine {engine} is for --backend tensorrt; --backend {options.backend} computes graphs")
    else:
        artefact = _graph(path, options, precision)
    if artefact.facts.verified is not True and not options.allow_unverified:
        verdict = "failed its verification" if artefact.facts.verified is False else "is not verified"
        images = "--images DIR --backend openvino" if options.backend == "openvino" else "--images DIR"
        raise UsageError(
            f"{artefact.graph.file} {verdict}{' under OpenVINO' if options.backend == 'openvino' else ''}",
            f"`protoseg verify {path} {images}` compares it with the network it was made from; --allow-unverified "
            "serves it all the same.",
        )
    _check_warmup(artefact, options)
    return artefact


def _check_warmup(artefact: TritonArtefact, options: ModelOptions) -> None:
    """Raises UsageError where the first request, which the model is tried with, is one that it refuses."""
    height, width = artefact.warmup_size(options)
    most = options.max_pixels if options.backend == "python" else max(options.max_pixels, MOST_WARMUP_PIXELS)
    if height * width > most:
        raise UsageError(
            f"a warm-up image of {height}x{width} pixels is larger than a request may be, which is {most / 1e6:g} "
            "megapixels",
            "Give a smaller --warmup-size or a larger --max-megapixels.",
        )


def _graph(path: Path, options: ModelOptions, precision: Precision | None) -> TritonArtefact:
    library = "openvino" if options.backend == "openvino" else ""
    if not path.is_dir():
        Bundle.open(path)  # says what a bundle is
    graph, metadata = open_graph(path, precision, library=library)
    if not library and not options.gpu and SPECS[metadata.precision].low_type is not None:
        raise UsageError(
            f"{graph.file} is {metadata.precision}, which ONNX Runtime does not compute on a CPU: Triton would answer "
            "in another precision, or fail",
            "Serve --precision fp32 or int8, or add --gpu.",
        )
    inputs, outputs = graph_ports(read_graph(graph.file).graph)
    facts = ServiceFacts.of(graph, metadata, _backend_text(options))
    return TritonArtefact(graph, facts, tuple(inputs), tuple(outputs))


def _backend_text(options: ModelOptions) -> str:
    if options.backend == "openvino":
        return "OpenVINO in Triton"
    provider = "CUDAExecutionProvider" if options.gpu else "CPUExecutionProvider"
    where = "Triton's Python backend" if options.backend == "python" else "Triton"
    return f"ONNX Runtime in {where}, {provider}"


def _engine(bundle: Bundle, precision: Precision | None, name: str | None) -> TritonArtefact:
    entry = _chosen(bundle, precision, name)
    graph = find_graph(bundle.folder / entry.file)
    sidecar = read_sidecar(graph.file)
    check_engine_file(graph.file, sidecar)
    check_described(graph.file, entry.precision, sidecar.metadata, bundle.manifest)
    inputs, outputs = graph_ports(read_graph(bundle.file(entry.graph)).graph)
    facts = ServiceFacts.of(graph, sidecar.metadata, f"{sidecar.library} in Triton")
    return TritonArtefact(graph, facts, tuple(inputs), tuple(outputs), sidecar.profile)


def _chosen(bundle: Bundle, precision: Precision | None, name: str | None) -> EngineEntry:
    """Raises UsageError where no engine is meant, or more than one."""
    engines = {key: entry for key, entry in bundle.manifest.engines.items() if entry.engine == "tensorrt"}
    build = f"`protoseg build {bundle.folder} --engine tensorrt --images DIR`"
    if not engines:
        others = ", ".join(bundle.manifest.engines)
        raise UsageError(
            f"{bundle.folder} has no engine of TensorRT"
            + (f" (those of TensorRT-RTX, {others}, Triton does not load)" if others else ""),
            f"Build one on a GPU of the kind that serves it: {build}.",
        )
    found = {
        key: entry for key, entry in engines.items() if name in (None, key) and precision in (None, entry.precision)
    }
    if len(found) == 1:
        return next(iter(found.values()))
    asked = " ".join(part for part in (precision, name) if part) or "one"
    raise UsageError(
        f"{bundle.folder} has {len(found) or 'no'} engines that --engine and --precision may mean ({asked}): "
        f"{', '.join(found or engines)}",
        f"Name one with --engine, or build another: {build}.",
    )
