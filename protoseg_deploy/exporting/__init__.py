"""From a trained network to a verified bundle."""

from protoseg_deploy.exporting.bundle import Bundle, VerificationFailedError, export_bundle
from protoseg_deploy.exporting.onnx_export import DEFAULT_OPSET, OPSETS, GraphOptions, export_onnx
from protoseg_deploy.exporting.samples import DEFAULT_IMAGES, evenly_spaced, folder_samples, recipe_samples
from protoseg_deploy.exporting.verification import verify_bundle, worst_picture

__all__ = [
    "DEFAULT_IMAGES",
    "DEFAULT_OPSET",
    "OPSETS",
    "Bundle",
    "GraphOptions",
    "VerificationFailedError",
    "evenly_spaced",
    "export_bundle",
    "export_onnx",
    "folder_samples",
    "recipe_samples",
    "verify_bundle",
    "worst_picture",
]
