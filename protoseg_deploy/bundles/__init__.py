"""The deployable artefact: manifest, graphs, engines, verdicts."""

from protoseg_deploy.bundles.bundle import Bundle
from protoseg_deploy.bundles.manifest import Manifest
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.bundles.verdicts import Verification

__all__ = ["Bundle", "GraphMetadata", "Manifest", "Verification"]
