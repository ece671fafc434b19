"""An engine that TensorRT has not built: enough for what is read of one without a GPU."""

from pathlib import Path

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.finding import open_graph
from protoseg_deploy.bundles.manifest import EngineEntry
from protoseg_deploy.runtimes.tensorrt import EngineSidecar, LayerTable, Profile
from protoseg_deploy.runtimes.tensorrt.sidecar import sidecar_file, write_sidecar

PROFILE = Profile(min=(1, 32, 32), opt=(1, 96, 128), max=(4, 256, 256))


def add_engine(folder: Path, name: str = "fp32-sm86", content: bytes | None = None, **changes: object) -> bytes:
    """Put one into a bundle, for batches up to 4; its content.

    Args:
        folder: the bundle.
        name: of the engine.
        content: of its file; absent: no engine that anything computes.
        changes: of its sidecar.
    """
    graph, metadata = open_graph(folder, "fp32")
    engine = folder / "engines" / f"{name}.engine"
    engine.parent.mkdir(exist_ok=True)
    engine.write_bytes(content or f"plan {name}".encode())
    sidecar = EngineSidecar(
        engine="tensorrt",
        library_version="10.13.3.9",
        precision="fp32",
        graph=graph.file.name,
        graph_sha256={graph.file.name: file_sha256(graph.file)},
        engine_sha256=file_sha256(engine),
        engine_bytes=engine.stat().st_size,
        targets=("8.6",),
        gpu="NVIDIA A10",
        driver="580.1",
        profile=PROFILE,
        workspace_bytes=None,
        version_compatible=False,
        hardware_compatible=False,
        layers=LayerTable(evidence="engine", heavy={"fp32": 3}, layers={}, wider=()),
        build_seconds=1.0,
        metadata=metadata,
    )
    sidecar = EngineSidecar.model_validate({**sidecar.model_dump(), **changes})
    write_sidecar(engine, sidecar)
    entry = EngineEntry(
        file=f"engines/{engine.name}",
        sidecar=f"engines/{sidecar_file(engine).name}",
        precision="fp32",
        graph=graph.file.name,
        engine=sidecar.engine,
    )
    Bundle.open(folder).add_engine(name, entry)
    return engine.read_bytes()
