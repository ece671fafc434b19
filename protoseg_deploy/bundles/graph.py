"""One ONNX graph: its files, what it says of itself, and that it is held to."""

from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto

from protoseg_deploy.bundles.contract import check_ports, graph_ports
from protoseg_deploy.bundles.digests import Identity, file_sha256, identities, joint_digest
from protoseg_deploy.bundles.manifest import Manifest
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.bundles.stored_weights import check_stored_weights
from protoseg_deploy.choices import Precision
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
    _found: tuple[Identity, ...] = field(default=(), repr=False)

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
        if self._found and self._found != identities(self.files):
            raise ProtosegError(f"{self.file} was replaced while it was opened", "Try again.")


def graph_files(file: Path) -> tuple[Path, ...]:
    """A graph and, where there is one, the file of its weights beside it; nothing is compared."""
    weights = file.with_name(f"{file.name}.data")
    return (file, weights) if weights.is_file() else (file,)


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


def unreadable(file: Path, reason: str) -> ProtosegError:
    """The error for a file that no library can load."""
    line = next((line.strip() for line in reason.splitlines() if line.strip()), "no reason given")
    return ProtosegError(
        f"{file} cannot be loaded as an ONNX model: {line[:200]}",
        "It is damaged, truncated or no ONNX file at all: copy or export it again.",
    )
