"""Which artefact a path means, and that it is what its bundle says it is."""

from pathlib import Path

from pydantic import TypeAdapter

from protoseg_deploy.bundles.bundle import Bundle, verified_as
from protoseg_deploy.bundles.digests import identities
from protoseg_deploy.bundles.graph import Graph, graph_files, read_metadata
from protoseg_deploy.bundles.manifest import ENGINE_FOLDER, MANIFEST_FILE, Manifest
from protoseg_deploy.bundles.metadata import Classes, GraphMetadata
from protoseg_deploy.choices import Precision
from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import ProtosegError


def open_graph(path: Path, precision: Precision | None = None, *, library: str = "") -> tuple[Graph, GraphMetadata]:
    """The graph of a path and what it says of itself, checked against the contract of graphs and what its bundle
    says.

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
        ProtosegError: the folder is not a bundle, or a file of it is missing, damaged or changed.
    """
    if path.is_dir():
        return Bundle.open(path).graph(precision or "fp32", library=library)
    for folder, name in _places(path):
        bundle = bundle_in(folder)
        if bundle is None:
            continue
        listed = next((known for known, info in bundle.manifest.graphs.items() if info.file == name), None)
        if listed is not None:
            return bundle.graph(listed, library=library)
        if name in bundle.manifest.files:
            found = identities((path,))
            bundle.file(name)
            verified = bundle.manifest.verified(verified_as(name, library))
            return Graph(path, (path,), verified, bundle.manifest, None, found)
    files = graph_files(path)
    return Graph(path, files, None, _found=identities(files))


def bundle_in(folder: Path) -> Bundle | None:
    """The bundle in a folder; None if there is none: other programs have a ``manifest.json`` too.

    Raises:
        ProtosegError: it is a bundle's, and damaged.
    """
    try:
        content = read_document(folder / MANIFEST_FILE, TypeAdapter(dict[str, object]), "")
    except (FileNotFoundError, ProtosegError):  # a graph is complete without any, though unverified
        return None
    return Bundle.open(folder) if {"format", "network", "classes", "files"} <= content.keys() else None


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


def _places(file: Path) -> list[tuple[Path, str]]:
    """Folders that may be the bundle of a file, with its name there."""
    absolute = file.absolute()
    places = [(file.parent, file.name)]
    if absolute.parent.name == ENGINE_FOLDER:
        places.append((absolute.parent.parent, f"{ENGINE_FOLDER}/{file.name}"))
    return places


def _shown(value: object) -> str:
    if isinstance(value, Classes):
        return f"{len(value.names)} ({', '.join(value.names[:4])}{', …' if len(value.names) > 4 else ''})"
    return str(value)
