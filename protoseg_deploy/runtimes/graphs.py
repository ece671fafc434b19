"""Which ONNX graph a path means, what it says of itself, and what its bundle says of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.manifest import MANIFEST_FILE, Manifest, check_graph, file_sha256, read_manifest
from protoseg_deploy.runtimes.metadata import GraphMetadata, Precision


@dataclass(frozen=True)
class Graph:
    """One ONNX file, with the file of its weights if they lie outside."""

    file: Path
    files: tuple[Path, ...]
    verified: bool | None
    """Verdict of the bundle it belongs to; None: never compared, or of no bundle."""

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def digest(self) -> str:
        """SHA-256 over all its files, weights included."""
        return hashlib.sha256("".join(map(file_sha256, self.files)).encode()).hexdigest()


def find_graph(path: Path, precision: Precision | None = None, *, library: str = "") -> Graph:
    """The graph of a bundle, or the one in a file.

    Args:
        path: a bundle folder, or an ``.onnx`` file. A file its bundle lists is compared with its checksum.
        precision: of the graph of a bundle folder; fp32 when absent. A file is what it is.
        library: whose verdict is asked for, where that is not ONNX Runtime; see `verified_as`.

    Raises:
        UsageError: the bundle has no graph of that precision.
        ProtosegError: the folder is no bundle, or a file of it is missing, damaged or changed.
    """
    if path.is_dir():
        return _of_bundle(path, read_manifest(path), precision or "fp32", library)
    manifest = manifest_beside(path)
    for name, info in manifest.graphs.items() if manifest else ():
        if info.file == path.name and manifest:
            return _of_bundle(path.parent, manifest, name, library)
    weights = path.with_name(f"{path.name}.data")
    return Graph(path, (path, weights) if weights.is_file() else (path,), None)


def manifest_beside(file: Path) -> Manifest | None:
    """The manifest in the folder of a file; None if there is none that is a bundle's."""
    if not (file.parent / MANIFEST_FILE).is_file():
        return None
    try:
        return read_manifest(file.parent)
    except ProtosegError:  # other programs have a manifest.json too, and a graph is complete without any
        return None


def read_metadata(file: Path) -> GraphMetadata:
    """What a graph says of itself.

    Raises:
        ProtosegError: no such file, no ONNX file, or not written by this program.
    """
    try:
        model = onnx.load(file, load_external_data=False)
    except OSError as error:
        raise ProtosegError(f"cannot read {file}: {error.strerror}") from None
    except DecodeError as error:
        raise unreadable(file, str(error)) from None
    if not model.graph.node:
        raise unreadable(file, "it is empty")
    return GraphMetadata.from_properties({entry.key: entry.value for entry in model.metadata_props}, str(file))


def unreadable(file: Path, reason: str) -> ProtosegError:
    """The error for a file that no library can load."""
    line = next((line.strip() for line in reason.splitlines() if line.strip()), "no reason given")
    return ProtosegError(
        f"{file} cannot be loaded as an ONNX model: {line[:200]}",
        "It is damaged, cut off or no ONNX file at all: copy or export it again.",
    )


def verified_as(file: str, library: str = "") -> str:
    """Name of a graph in the verdicts of a bundle: of ONNX Runtime the file's, of other libraries ``FILE@LIBRARY``."""
    return f"{file}@{library}" if library else file


def _of_bundle(bundle: Path, manifest: Manifest, precision: Precision, library: str) -> Graph:
    file = check_graph(bundle, manifest, precision)
    info = manifest.graphs[precision]
    return Graph(file, tuple(bundle / name for name in info.files), manifest.verified(verified_as(info.file, library)))
