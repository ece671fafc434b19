"""From a trained network to a verified bundle."""

from protoseg_deploy.exporting.bundle import Bundle, VerificationFailedError, export_bundle
from protoseg_deploy.exporting.onnx_export import DEFAULT_OPSET, OPSETS, GraphOptions, export_onnx
from protoseg_deploy.exporting.verification import verify_bundle, worst_picture

__all__ = [
    "DEFAULT_OPSET",
    "OPSETS",
    "Bundle",
    "GraphOptions",
    "VerificationFailedError",
    "export_bundle",
    "export_onnx",
    "verify_bundle",
    "worst_picture",
]
