"""From a path to the runtime behind it."""

from pathlib import Path

from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime
from protoseg_deploy.runtimes.manifest import GRAPH_FILE, MANIFEST_FILE
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.pytorch import PyTorchRuntime

_ACCEPTED = (
    "A runtime is a run folder (best.safetensors), a bundle folder (manifest.json), an .onnx file written by "
    "`protoseg export`, or a .safetensors network file."
)


def open_runtime(path: Path, *, device: str = "auto", threads: int | None = None, which: str = "best") -> Runtime:
    """Open whatever segments.

    Args:
        path: a run folder, a bundle folder, an ``.onnx`` file or a ``.safetensors`` network file.
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of the CPU; None leaves it to the default of the process.
        which: ``best`` or ``last`` network of a run folder.

    Raises:
        UsageError: nothing of that kind is there, or the device is not.
        ProtosegError: the file is damaged or not ours.
    """
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}", _ACCEPTED)
    if path.is_dir():
        names = {entry.name for entry in path.iterdir()}
        if names & {MANIFEST_FILE, GRAPH_FILE}:
            return OnnxRuntime(path, device=device, threads=threads)
        if names & {"recipe.yaml", "best.safetensors", "last.safetensors"}:
            return PyTorchRuntime(path, device=device, threads=threads, which=which)
        shown = ", ".join(sorted(names)[:8]) + (", …" if len(names) > 8 else "")
        raise UsageError(f"{path} is neither a run nor a bundle; it holds {shown or 'nothing'}", _ACCEPTED)
    if path.suffix == ".onnx":
        return OnnxRuntime(path, device=device, threads=threads)
    if path.suffix == ".safetensors":
        return PyTorchRuntime(path, device=device, threads=threads)
    raise UsageError(f"{path} is not a runtime", _ACCEPTED)
