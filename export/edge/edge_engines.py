"""TensorRT engines, built where they run, with the sidecar that the runner and `protoseg bench` read."""

import hashlib
import importlib
import json
import time
from pathlib import Path
from typing import Any

from protoseg_runner import Bundle, RunnerError


def build_engine(
    bundle: Bundle, precision: str, batch: int, size: tuple[int, int], folder: Path, module: str = "tensorrt"
) -> tuple[Path, float]:
    """Build an engine of one shape.

    Args:
        bundle: whose graph is built. int8 is built of the graph that `protoseg build --precision int8` leaves in
            ``engines/``, as TensorRT takes symmetric quantisation alone.
        precision: of the graph: layers compute in the types that the graph has.
        batch: images of a call.
        size: height and width.
        folder: where the engine goes.
        module: ``tensorrt``, or ``tensorrt_rtx``.

    Returns:
        The file, and the seconds that it took.

    Raises:
        RunnerError: TensorRT is not installed, there is no such graph, or it is refused.
    """
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        raise RunnerError(
            f"--build needs {module}: {error}", "JetPack has it; sudo apt install nvidia-jetpack"
        ) from None
    name, content = _graph(bundle, precision)
    begin = time.perf_counter()
    plan = _plan(library, content, name, (batch, *size))
    seconds = time.perf_counter() - begin
    file = folder / f"{precision}-{batch}x{size[0]}x{size[1]}.engine"
    file.write_bytes(plan)
    sidecar = _sidecar(library, bundle, precision, name, content, plan, (batch, *size), seconds)
    file.with_suffix(".json").write_text(json.dumps(sidecar, indent=2) + "\n", encoding="utf-8")
    return file, seconds


def _graph(bundle: Bundle, precision: str) -> tuple[str, bytes]:
    if precision not in bundle.graphs:
        raise RunnerError(f"{bundle.folder} has no {precision} graph; it has {', '.join(bundle.graphs)}", "", 2)
    name, files = bundle.graphs[precision]
    if len(files) > 1:
        raise RunnerError(f"{name} keeps its weights in a file of their own, which is not built here")
    if precision != "int8":
        return name, bundle.content(name)
    twin = bundle.folder / "engines" / f"{Path(name).stem}.symmetric.onnx"
    if not twin.is_file():
        raise RunnerError(f"there is no {twin}", "`protoseg build BUNDLE --precision int8` writes it.")
    return twin.name, twin.read_bytes()


def _plan(library: Any, graph: bytes, name: str, shape: tuple[int, int, int]) -> bytes:
    log = library.Logger(library.Logger.ERROR)
    builder = library.Builder(log)
    network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = library.OnnxParser(network, log)
    if not parser.parse(graph):
        reasons = [str(parser.get_error(number).desc()) for number in range(parser.num_errors)]
        raise RunnerError(f"{name} cannot be read: {'; '.join(reasons)[:400]}", "Try another precision.")
    profile = builder.create_optimization_profile()
    profile.set_shape("images", *[(*shape, 3)] * 3)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RunnerError(f"no engine can be built of {name} on this device", "Try fp32, or a smaller --size.")
    return bytes(plan)


def _sidecar(
    library: Any,
    bundle: Bundle,
    precision: str,
    name: str,
    graph: bytes,
    plan: bytes,
    shape: tuple[int, int, int],
    seconds: float,
) -> dict[str, Any]:
    """See `protoseg_deploy.runtimes.tensorrt.EngineSidecar`."""
    manifest = bundle.manifest
    images, network, provenance = manifest["input"], manifest["network"], manifest["provenance"]
    rtx = library.__name__ == "tensorrt_rtx"
    return {
        "format": 1, "engine": "tensorrt-rtx" if rtx else "tensorrt", "library_version": str(library.__version__),
        "precision": precision, "graph": Path(name).name, "graph_sha256": {Path(name).name: _sha256(graph)},
        "engine_sha256": _sha256(plan), "engine_bytes": len(plan), "targets": [] if rtx else [_capability()],
        "gpu": None, "driver": None, "profile": {"min": shape, "opt": shape, "max": shape}, "workspace_bytes": None,
        "version_compatible": False, "hardware_compatible": False,
        "layers": {"evidence": "network", "heavy": {}, "layers": {}, "wider": []}, "build_seconds": seconds,
        "metadata": {
            "format": 1, "program": provenance["versions"].get("protoseg-deploy", ""), "classes": manifest["classes"],
            "ignore_index": manifest["masks"]["ignore_index"], "mean": images["mean"], "std": images["std"],
            "input_scale": images["input_scale"], "reading": images.get("reading") or {},
            "fixed_size": images["fixed_size"], "precision": precision, "parameters": network["parameters"],
            "backbone": network["backbone"], "decoder": network["decoder"], "provenance": provenance["training"],
            "network_sha256": manifest["files"]["reference.safetensors"]["sha256"],
        },
    }  # fmt: skip


def _capability() -> str:
    """Of the first visible GPU, such as ``8.7``."""
    from protoseg_runner import Gpu

    major, minor = Gpu("the engine").capability
    return f"{major}.{minor}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
