"""Semi-supervised segmentation training, distillation, export, verification and benchmarking."""

from importlib.metadata import PackageNotFoundError, version

from protoseg_deploy.telemetry import switch_off_telemetry

switch_off_telemetry()

try:
    __version__ = version("protoseg-deploy")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
