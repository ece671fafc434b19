"""Which ONNX graph a path means, what it says of itself, and what its bundle says of it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto
from pydantic import TypeAdapter

from protoseg_deploy.bundles.contract import check_ports, graph_ports
from protoseg_deploy.bundles.manifest import (
    ENGINE_FOLDER,
    MANIFEST_FILE,
    Manifest,
    check_file,
    check_graph,
    file_sha256,
    joint_digest,
    read_manifest,
)
from protoseg_deploy.bundles.metadata import Classes, GraphMetadata, Precision
from protoseg_deploy.bundles.stored_weights import check_stored_weights
from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.files import open_regular, read_at_most

_MOST_BYTES = 2**31
"""Protobuf ends there."""


@dataclass(frozen=True)
class Graph:
    """One ONNX file, with the file of its weights if they lie outside."""

    file: Path
    files: tuple[Path, ...]
    verified: bool | None
    """Verdict of the bundle it belongs to; None: never compared, or of no bundle."""
    manifest: Manifest | None = None
    """Of the bundle that names it."""
    precision: Precision | None = None
    """As that bundle says; None where it does not say."""
    _found: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    @property
    def bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def digest(self) -> str:
        """SHA-256 over all its files, weights included."""
        digest = joint_digest([file_sha256(file) for file in self.files])
        assert digest is not None
        return digest

    def require_unchanged(self) -> None:
        """Refuse files that were exchanged after they were found and compared with their checksums.

        Raises:
            ProtosegError: a file is another one than before, or was written meanwhile.
        """
        if self._found and self._found != _identities(self.files):
            raise ProtosegError(f"{self.file} was exchanged while it was opened", "Try again.")


def open_graph(path: Path, precision: Precision | None = None, *, library: str = "") -> tuple[Graph, GraphMetadata]:
    """The graph of a path and what it says of itself, held to the contract of graphs and to what its bundle says.

    Args:
        path: a bundle folder, or an ``.onnx`` file. A file its bundle lists is compared with its checksum.
        precision: see `find_graph`.
        library: see `find_graph`.

    Raises:
        UsageError: the bundle has no graph of that precision.
        ProtosegError: as `find_graph` and `read_metadata`, or the graph is not what the manifest says it is.
    """
    graph = find_graph(path, precision, library=library)
    metadata = read_metadata(graph.file)
    if graph.manifest is not None:
        check_described(graph.file, graph.precision, metadata, graph.manifest)
    return graph, metadata


def find_graph(path: Path, precision: Precision | None = None, *, library: str = "") -> Graph:
    """The graph of a bundle, or the one in a file.

    Args:
        path: a bundle folder, or an ``.onnx`` file. A file its bundle lists is compared with its checksum; one that
            lies in a bundle without being listed belongs to none and is unverified.
        precision: of the graph of a bundle folder; fp32 when absent. A file is what it is.
        library: whose verdict is asked for, where that is not ONNX Runtime; see `verified_as`.

    Raises:
        UsageError: the bundle has no graph of that precision.
        ProtosegError: the folder is no bundle, or a file of it is missing, damaged or changed.
    """
    if path.is_dir():
        return _of_bundle(path, read_manifest(path), precision or "fp32", library)
    for bundle, name in _places(path):
        manifest = manifest_of(bundle)
        if manifest is None:
            continue
        listed = next((known for known, info in manifest.graphs.items() if info.file == name), None)
        if listed is not None:
            return _of_bundle(bundle, manifest, listed, library)
        if name in manifest.files:
            found = _identities((path,))
            check_file(bundle, manifest, name)
            verified = manifest.verified(verified_as(name, library))
            return Graph(path, (path,), verified, manifest, None, found)
    files = graph_files(path)
    return Graph(path, files, None, _found=_identities(files))


def graph_files(file: Path) -> tuple[Path, ...]:
    """A graph and, where there is one, the file of its weights beside it; nothing is compared."""
    weights = file.with_name(f"{file.name}.data")
    return (file, weights) if weights.is_file() else (file,)


def manifest_of(folder: Path) -> Manifest | None:
    """The manifest in a folder; None if there is none that is a bundle's: other programs have one too.

    Raises:
        ProtosegError: it is a bundle's, and damaged.
    """
    try:
        content = read_document(folder / MANIFEST_FILE, TypeAdapter(dict[str, object]), "")
    except (FileNotFoundError, ProtosegError):  # a graph is complete without any, though unverified
        return None
    return read_manifest(folder) if {"format", "network", "classes", "files"} <= content.keys() else None


def read_metadata(file: Path) -> GraphMetadata:
    """What a graph says of itself, after comparing its inputs, outputs and weights with that.

    Raises:
        ProtosegError: no such file, no ONNX file, not written by this program, with other inputs or outputs than it
            says, or with weights that are missing or not finite.
    """
    model = read_graph(file)
    metadata = GraphMetadata.from_properties({p.key: p.value for p in model.metadata_props}, str(file))
    check_ports(file, *graph_ports(model.graph), metadata)
    if model.functions or model.graph.sparse_initializer:
        what = "functions of its own" if model.functions else "sparse weights"
        raise unreadable(file, f"it holds {what}, which graphs of this program do not")
    check_stored_weights(model, file)
    return metadata


def read_graph(file: Path) -> ModelProto:
    """An ONNX file without the weights that lie outside.

    Raises:
        ProtosegError: there is no such file, or it is none.
    """
    try:
        with open_regular(file) as stream:
            content = read_at_most(stream, _MOST_BYTES)
    except OSError as error:
        raise ProtosegError(f"cannot read {file}: {error.strerror or error}") from None
    if content is None:
        raise unreadable(file, "it is larger than 2 GiB, where ONNX files end")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise unreadable(file, str(error)) from None
    if not model.graph.node:
        raise unreadable(file, "it is empty")
    return model


def check_described(file: Path, precision: Precision | None, metadata: GraphMetadata, manifest: Manifest) -> None:
    """Compare what an artefact says of itself with what its bundle says of it.

    Args:
        file: for the message.
        precision: as the bundle says; None where it does not say.
        metadata: of the artefact.
        manifest: of the bundle.

    Raises:
        ProtosegError: precision, classes or what is computed inside differ.
    """
    pairs = {
        "precision": (precision or metadata.precision, metadata.precision),
        "classes": (manifest.classes, metadata.classes),
        "ignore index": (manifest.masks.ignore_index, metadata.ignore_index),
        "fixed size": (manifest.input.fixed_size, metadata.fixed_size),
        "input scale": (manifest.input.input_scale, metadata.input_scale),
        "mean": (manifest.input.mean, metadata.mean),
        "std": (manifest.input.std, metadata.std),
        "reading of images": (manifest.input.reading, metadata.reading),
    }
    for what, (described, found) in pairs.items():
        if described != found:
            raise ProtosegError(
                f"{file} is not the artefact the manifest describes: {what} {_shown(found)} instead of "
                f"{_shown(described)}",
                "Export the bundle again.",
            )


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


def _places(file: Path) -> list[tuple[Path, str]]:
    """Folders that may be the bundle of a file, with its name there."""
    absolute = file.absolute()
    places = [(file.parent, file.name)]
    if absolute.parent.name == ENGINE_FOLDER:
        places.append((absolute.parent.parent, f"{ENGINE_FOLDER}/{file.name}"))
    return places


def _of_bundle(bundle: Path, manifest: Manifest, precision: Precision, library: str) -> Graph:
    info = manifest.graphs.get(precision)
    files = () if info is None else tuple(bundle / name for name in info.files)
    found = _identities(files)  # before they are read: what is exchanged later is noticed
    file = check_graph(bundle, manifest, precision)
    verified = manifest.verified(verified_as(manifest.graphs[precision].file, library))
    return Graph(file, files, verified, manifest, precision, found)


def _identities(files: Iterable[Path]) -> tuple[tuple[int, ...], ...]:
    """What tells whether the same unchanged files lie there; nothing of a file that cannot be looked at."""
    found = []
    for file in files:
        try:
            status = file.stat()
        except OSError:
            return ()
        found.append((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(found)


def _shown(value: object) -> str:
    if isinstance(value, Classes):
        return f"{len(value.names)} ({', '.join(value.names[:4])}{', …' if len(value.names) > 4 else ''})"
    return str(value)
