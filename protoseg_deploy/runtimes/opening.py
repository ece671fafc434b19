"""From a path to the runtime behind it."""

from pathlib import Path
from typing import TYPE_CHECKING

from protoseg_deploy.bundles.manifest import GRAPH_FILE, MANIFEST_FILE
from protoseg_deploy.choices import Backend, Precision
from protoseg_deploy.errors import UsageError
from protoseg_deploy.exchange import settle
from protoseg_deploy.run_folder import RunFolder
from protoseg_deploy.runtimes.backends import SPECS
from protoseg_deploy.runtimes.base import Runtime
from protoseg_deploy.server_address import is_address, parse_address

if TYPE_CHECKING:
    from protoseg_deploy.models import Windows

_ACCEPTED = (
    "A runtime is a run folder (best.safetensors), a bundle folder (manifest.json), an .onnx file written by "
    "`protoseg export`, an .engine file written by `protoseg build`, a .safetensors network file, or the address of a "
    "model on a server (http://HOST:PORT/MODEL, grpc://HOST:PORT/MODEL)."
)


def open_runtime(
    path: Path | str,
    *,
    device: str = "auto",
    threads: int | None = None,
    which: str = "best",
    precision: Precision | None = None,
    backend: Backend | None = None,
    windows: "Windows | None" = None,
    cuda_graph: bool = True,
) -> Runtime:
    """Open whatever segments.

    Args:
        path: a run folder, a bundle folder, an ``.onnx`` file, an ``.engine`` file, a ``.safetensors`` network file, or
            the address of a model on a server (a string, see `ModelAddress`).
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of the CPU; None leaves it to the default of the process.
        which: ``best`` or ``last`` network of a run folder.
        precision: which graph of a bundle folder; fp32 when absent. Of anything else it must be the precision it has.
        backend: the inference backend; ONNX Runtime with its CUDA or CPU provider when absent.
        windows: average the logits of overlapping windows, which runs and network files alone can do.
        cuda_graph: an engine replays repeated launches from a CUDA graph; says nothing about anything else.

    Raises:
        UsageError: nothing of that kind is there, or the device, the precision or the backend is not, or it cannot
            average windows.
        ProtosegError: the file is damaged or not ours.
    """
    if isinstance(path, str) and is_address(path):
        return _open_server(path, precision, backend, windows)
    path = Path(path)
    settle(path)
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}", _ACCEPTED)
    if windows is not None and not is_run(path):
        raise UsageError(
            f"{path} is not a PyTorch run: --window does not apply",
            "A compiled graph gives class maps, and windows are averaged before there are any. Evaluate the run it was "
            "made from, or leave --window out.",
        )
    if _is_graph(path):
        runtime = SPECS[backend or "onnxruntime"].open(path, device, threads, precision)
    elif backend is not None:
        raise UsageError(
            f"{path} is not an ONNX graph: --backend {backend} does not apply",
            "Backends compute bundles and .onnx files; runs are computed by PyTorch, engines by TensorRT.",
        )
    elif path.suffix == ".engine" and path.is_file():
        runtime = _open_engine(path, device, cuda_graph)
    elif is_run(path):
        from protoseg_deploy.runtimes.pytorch import PyTorchRuntime

        runtime = PyTorchRuntime(path, device=device, threads=threads, which=which, windows=windows)
    else:
        raise UsageError(f"{path} is not a runtime", _ACCEPTED)
    if precision not in (None, runtime.info.precision):
        raise UsageError(
            f"{path} is {runtime.info.precision}, not {precision}",
            "Export a bundle with that precision: `protoseg export RUN --bundle DIR --precision ...`.",
        )
    return runtime


def is_run(path: Path) -> bool:
    """Whether a path is a run folder or a network file, which PyTorch computes."""
    return not _is_graph(path) and (path.is_dir() or path.suffix == ".safetensors")


def _is_graph(path: Path) -> bool:
    """Whether a path is a bundle or an ONNX file; a folder that is no run either is refused."""
    if not path.is_dir():
        return path.suffix == ".onnx"
    names = {entry.name for entry in path.iterdir()}
    if names & {MANIFEST_FILE, GRAPH_FILE}:
        return True
    run = RunFolder(path)
    if names & {run.recipe_path.name, run.best.name, run.last.name}:
        return False
    shown = ", ".join(sorted(names)[:8]) + (", …" if len(names) > 8 else "")
    raise UsageError(f"{path} is neither a run nor a bundle; it holds {shown or 'nothing'}", _ACCEPTED)


def _open_server(text: str, precision: Precision | None, backend: Backend | None, windows: "Windows | None") -> Runtime:
    address = parse_address(text)
    if backend is not None or windows is not None:
        option = "--backend" if backend is not None else "--window"
        raise UsageError(f"{address}: {option} does not apply to a server, which has decided", "Leave it out.")
    from protoseg_deploy.runtimes.remote import RemoteRuntime

    runtime = RemoteRuntime(address)
    if precision not in (None, runtime.info.precision):
        raise UsageError(f"{address} serves {runtime.info.precision}, not {precision}", "Name another model.")
    return runtime


def _open_engine(path: Path, device: str, cuda_graph: bool) -> Runtime:
    if device == "cpu":
        raise UsageError(f"{path} is an engine for a GPU: it cannot be combined with --device cpu")
    from protoseg_deploy.runtimes.tensorrt import TensorRTRuntime

    return TensorRTRuntime(path, cuda_graph=cuda_graph)
