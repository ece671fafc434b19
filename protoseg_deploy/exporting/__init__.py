"""From a trained network to a verified bundle."""

from protoseg_deploy.exporting.bundle import VerificationFailedError, export_bundle, failure_message
from protoseg_deploy.exporting.gate.bisecting import Bisection, bisect_graph
from protoseg_deploy.exporting.gate.stages import int8_limits
from protoseg_deploy.exporting.gate.verification import verify_bundle, worst_picture
from protoseg_deploy.exporting.precisions import Calibration
from protoseg_deploy.exporting.tracing.onnx_export import DEFAULT_OPSET, OPSETS, GraphOptions, export_onnx

__all__ = [
    "DEFAULT_OPSET",
    "OPSETS",
    "Bisection",
    "Calibration",
    "GraphOptions",
    "VerificationFailedError",
    "bisect_graph",
    "export_bundle",
    "export_onnx",
    "failure_message",
    "int8_limits",
    "verify_bundle",
    "worst_picture",
]
