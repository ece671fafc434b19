"""The folder that leaves the building: manifest, graphs, engines, verdicts."""

from protoseg_deploy.bundles.bundle import Bundle
from protoseg_deploy.bundles.manifest import Manifest
from protoseg_deploy.bundles.metadata import PRECISIONS, GraphMetadata, Precision
from protoseg_deploy.bundles.verdicts import Verification

__all__ = ["PRECISIONS", "Bundle", "GraphMetadata", "Manifest", "Precision", "Verification"]
