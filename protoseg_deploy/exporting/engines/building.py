"""From an ONNX graph to an engine of TensorRT or TensorRT-RTX, with a sidecar that says what it is."""

import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.graph import graph_files, read_metadata
from protoseg_deploy.bundles.manifest import ENGINE_FOLDER, EngineEntry
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting.engines.layers import check_precision, engine_layers, layer_table, network_layers
from protoseg_deploy.exporting.engines.options import (
    EngineOptions,
    capability_of,
    check_profile,
    check_target,
    default_profile,
    engine_name,
    targets_of,
)
from protoseg_deploy.exporting.int8.symmetry import symmetric_graph
from protoseg_deploy.exporting.tracing.onnx_export import save_graph
from protoseg_deploy.files import require_inside, write_atomically
from protoseg_deploy.runtimes.tensorrt import EngineSidecar, LayerTable, Profile, load_library
from protoseg_deploy.runtimes.tensorrt.library import LIBRARY_NAMES, open_log, reasons
from protoseg_deploy.runtimes.tensorrt.sidecar import AMPERE, sidecar_file, write_sidecar
from protoseg_deploy.time_limit import time_limit


@dataclass(frozen=True)
class BuiltEngine:
    """An engine in its bundle."""

    name: str
    """As in the manifest."""
    file: Path
    sidecar: EngineSidecar


def build_into_bundle(bundle: Bundle, precision: Precision, options: EngineOptions) -> BuiltEngine:
    """Build an engine of a bundle's graph into ``engines/`` and note it in the manifest.

    Raises:
        UsageError: the bundle has no such graph, the library is missing, or the target cannot have that precision.
        ProtosegError: the library refuses the graph, or the engine is not of the precision asked for.
    """
    check_target(precision, options)
    folder = bundle.folder
    require_inside(folder, folder / ENGINE_FOLDER)
    graph = bundle.graph(precision).file
    if precision == "int8":
        graph = _symmetric_twin(graph, folder / ENGINE_FOLDER)
    name = engine_name(precision, options)
    file = f"{ENGINE_FOLDER}/{name}.engine"
    require_inside(folder, folder / file)
    sidecar = build_engine(graph, folder / file, options)
    entry = EngineEntry(
        file=file,
        sidecar=f"{ENGINE_FOLDER}/{sidecar_file(folder / file).name}",
        precision=precision,
        graph=graph.relative_to(folder).as_posix(),
        engine=options.engine,
    )
    bundle.add_engine(name, entry)
    return BuiltEngine(name, folder / file, sidecar)


def _symmetric_twin(graph: Path, folder: Path) -> Path:
    """Write the int8 graph as TensorRT takes it: a file of its own, so that it is verified as well."""
    twin = folder / f"{graph.stem}.symmetric.onnx"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ProtosegError(f"cannot write {folder}: {error.strerror}") from None
    save_graph(symmetric_graph(onnx.load(graph)), twin)
    return twin


def build_engine(graph: Path, target: Path, options: EngineOptions) -> EngineSidecar:
    """Build an engine and write it, and its sidecar, in one step each.

    Args:
        graph: an ONNX graph of this program; of int8 the one of `symmetric_graph`.
        target: file to write; the sidecar goes beside it.
        options: library, shapes, GPUs.

    Raises:
        UsageError: the library is missing, or the target cannot have the precision of the graph.
        ProtosegError: the library refuses the graph, or the engine is not of the precision of the graph.
    """
    metadata = read_metadata(graph)
    check_target(metadata.precision, options)
    library = load_library(options.engine)
    profile = options.profile or default_profile(metadata.fixed_size)
    check_profile(profile, metadata.fixed_size)
    log = open_log(library)
    start = time.perf_counter()
    builder, network = _parse(library, log, graph, options)
    layers = network_layers(network)
    expected = layer_table(layers, "network", metadata.precision)
    if metadata.precision != "fp32":
        check_precision(str(graph), expected, metadata.precision)
    config = _config(library, builder, options)
    _add_profile(builder, config, network, profile)
    cache = _timing_cache(library, config, target.parent) if options.engine == "tensorrt" else None
    with time_limit(f"building {target.name}", times=10):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = reasons(log)
        raise ProtosegError(f"{LIBRARY_NAMES[options.engine]} cannot build {graph}: {why}", _hint(why))
    seconds = time.perf_counter() - start
    heavy_names = [layer.name for layer in layers if layer.heavy]
    found = _inspect(library, log, plan, heavy_names, metadata.precision, options)
    if found is not None and metadata.precision != "fp32":
        check_precision(str(target), found, metadata.precision, expected)
    if cache is not None:
        write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    write_atomically(target, bytes(plan))
    sidecar = EngineSidecar(
        engine=options.engine,
        library_version=str(library.__version__),
        precision=metadata.precision,
        graph=graph.name,
        graph_sha256={file.name: file_sha256(file) for file in graph_files(graph)},
        engine_sha256=file_sha256(target),
        engine_bytes=target.stat().st_size,
        targets=targets_of(options),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        driver=_driver_version(),
        profile=profile,
        workspace_bytes=options.workspace_bytes,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        layers=found or expected,
        build_seconds=round(seconds, 3),
        metadata=metadata,
    )
    write_sidecar(target, sidecar)
    return sidecar


def _parse(library: Any, log: Any, graph: Path, options: EngineOptions) -> tuple[Any, Any]:
    """The builder, which must live as long as the network, and the network."""
    builder = library.Builder(log)
    # TensorRT 10 has to be asked for it; later versions and TensorRT-RTX know nothing else and ignore the flag.
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    with time_limit(f"reading {graph}"):
        parsed = parser.parse_from_file(str(graph))
    if not parsed:
        faults = [parser.get_error(number) for number in range(parser.num_errors)]
        told = [f"  {fault.node_name()} ({fault.node_operator()}): {_one_line(fault.desc())}" for fault in faults]
        raise ProtosegError(
            "\n".join([f"{LIBRARY_NAMES[options.engine]} cannot read {graph}:", *(told or [f"  {reasons(log)}"])]),
            "Another precision of the same network may work.",
        )
    return builder, network


def _hint(reason: str) -> str:
    if re.search(r"Turing|sm_?75", reason, re.IGNORECASE):
        return "Compute capability 7.5 lacks kernels: build fp16 for it, or leave it out of --target-sm."
    if re.search(r"memory", reason, re.IGNORECASE):
        return "Build a smaller --profile, or allow a larger --workspace."
    return "Another precision of the same network may work."


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and "cudaError" not in line]
    return " ".join(lines)[:400]


def _config(library: Any, builder: Any, options: EngineOptions) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.version_compatible:
        config.set_flag(library.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        if torch.cuda.get_device_capability() < AMPERE:
            raise UsageError(
                "--hardware-compatible needs a GPU of compute capability 8.0 or later to build on", "Leave it out."
            )
        config.hardware_compatibility_level = library.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.target_sm:
        _set_targets(library, config, targets_of(options))
    return config


def _set_targets(library: Any, config: Any, targets: Sequence[str]) -> None:
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in library.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    for target in targets:
        if target not in known:
            raise UsageError(
                f"--target-sm: {library.__name__} {library.__version__} does not build for {target}",
                f"It builds for {', '.join(sorted(known, key=capability_of))}.",
            )
    config.num_compute_capabilities = len(targets)
    for number, target in enumerate(targets):
        config.set_compute_capability(known[target], number)


def _add_profile(builder: Any, config: Any, network: Any, profile: Profile) -> None:
    images = network.get_input(0)
    added = builder.create_optimization_profile()
    added.set_shape(images.name, *((*shape, 3) for shape in (profile.min, profile.opt, profile.max)))
    config.add_optimization_profile(added)


def _timing_cache(library: Any, config: Any, folder: Path) -> Path:
    """Give the builder what earlier builds measured on this GPU; returns the file to keep it in."""
    major, minor = torch.cuda.get_device_capability()
    path = folder / f"timing-sm{major}{minor}-{library.__version__}.cache"
    kept = path.read_bytes() if path.is_file() else b""
    if not config.set_timing_cache(config.create_timing_cache(kept), ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return path


def _inspect(
    library: Any, log: Any, plan: Any, heavy_names: Sequence[str], precision: Precision, options: EngineOptions
) -> LayerTable | None:
    """What the engine says of its layers; None where nothing can load it or it says too little."""
    if not torch.cuda.is_available():
        return None
    runtime = library.Runtime(log)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True  # of the library that is loaded: it has just built the engine
    with time_limit("inspecting the engine"):
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:  # built for another GPU
        return None
    text = engine.create_engine_inspector().get_engine_information(library.LayerInformationFormat.JSON)
    table = layer_table(engine_layers(text, heavy_names), "engine", precision)
    return table if table.heavy else None


def _driver_version() -> str | None:
    """Version of the NVIDIA driver; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.split()
    return lines[0] if answer.returncode == 0 and lines else None
