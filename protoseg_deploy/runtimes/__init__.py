"""Whatever segments, behind one protocol: a PyTorch run or network file, an ONNX bundle or graph."""

from protoseg_deploy.bundles.manifest import Manifest, read_manifest
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.bundles.verdicts import Verification
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array, check_images
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.pytorch import PyTorchRuntime, network_file, recipe_windows
from protoseg_deploy.runtimes.tiling import default_overlap, fit_image, predict_tiled

__all__ = [
    "GraphMetadata",
    "Manifest",
    "OnnxRuntime",
    "PyTorchRuntime",
    "Runtime",
    "RuntimeInfo",
    "UInt8Array",
    "Verification",
    "check_images",
    "default_overlap",
    "fit_image",
    "network_file",
    "open_runtime",
    "predict_tiled",
    "read_manifest",
    "recipe_windows",
]
