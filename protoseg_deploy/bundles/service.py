"""What a server says of the artefact it serves, so that a client needs nothing but its address.

It is one JSON document in the configuration of a model, as its parameter ``protoseg``: the one place that servers of
the Open Inference Protocol show to clients over HTTP and over gRPC, our own and Triton alike. Beside it lie the same
facts for people, one parameter each.
"""

import json
from collections.abc import Mapping
from typing import Self

from pydantic import TypeAdapter

from protoseg_deploy.bundles.graph import Graph
from protoseg_deploy.bundles.manifest import Masks, Sha256
from protoseg_deploy.bundles.metadata import Document, GraphMetadata
from protoseg_deploy.documents import parse_document
from protoseg_deploy.errors import ProtosegError

PARAMETER = "protoseg"
"""Name of the parameter that holds the document."""


class ServiceFacts(Document):
    """A served artefact: what it is, and which."""

    metadata: GraphMetadata
    masks: Masks | None = None
    """How masks that go with it are read; None where no bundle says so."""
    sha256: Sha256
    """Of the artefact, see `Graph.digest`: the one of the verdicts in its bundle."""
    verified: bool | None
    """Verdict of the bundle about this artefact, under the backend that serves it; None: never compared."""
    file_bytes: int
    """Of the graph with its weights."""
    backend: str
    """Library, version and execution provider, for people."""

    @classmethod
    def of(cls, graph: Graph, metadata: GraphMetadata, backend: str) -> Self:
        """Facts of a graph that was opened with `open_graph`."""
        return cls(
            metadata=metadata,
            masks=graph.manifest.masks if graph.manifest else None,
            sha256=graph.digest(),
            verified=graph.verified,
            file_bytes=graph.bytes,
            backend=backend,
        )

    def to_parameters(self) -> dict[str, str]:
        """Parameters of the model's configuration."""
        classes = self.metadata.classes
        return {
            PARAMETER: self.model_dump_json(),
            "sha256": self.sha256,
            "verified": {True: "passed", False: "failed", None: "not verified"}[self.verified],
            "precision": self.metadata.precision,
            "classes": json.dumps(classes.names, ensure_ascii=False),
            "colors": json.dumps(classes.colors),
            "ignore_index": str(self.metadata.ignore_index),
            "backend": self.backend,
        }

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, str], source: str) -> Self:
        """Read the parameters back.

        Args:
            parameters: of the model's configuration.
            source: the server and its model, for messages.

        Raises:
            ProtosegError: they are not those of a server of this program, or are damaged.
        """
        content = parameters.get(PARAMETER)
        if content is None:
            raise ProtosegError(
                f"{source} does not say which classes it gives: its configuration has no parameter {PARAMETER!r}",
                "Serve a bundle with `protoseg serve`, or with a repository that `protoseg serve-repo` has made.",
            )
        return parse_document(content, f"{source}: its parameter {PARAMETER}", TypeAdapter(cls), _HINT)


def of_version(parameters: Mapping[str, str], version: str) -> dict[str, str]:
    """Parameters of a model with the facts of one version as ``protoseg``.

    Triton has one configuration for all versions of a model: ``protoseg`` is of the latest there, and ``protoseg.3`` of
    version 3.

    Args:
        parameters: of the model's configuration.
        version: as requests name it; empty: the one the server chooses.
    """
    own = parameters.get(f"{PARAMETER}.{version}")
    return dict(parameters) if own is None else {**parameters, PARAMETER: own}


_HINT = "It may be served by another version of this program."
