"""Whatever segments, behind one protocol: a PyTorch run or network file, an ONNX bundle or graph."""

from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array, check_images
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.pytorch import PyTorchRuntime, recipe_windows
from protoseg_deploy.runtimes.tiling import default_overlap, fit_image, predict_tiled

__all__ = [
    "OnnxRuntime",
    "PyTorchRuntime",
    "Runtime",
    "RuntimeInfo",
    "UInt8Array",
    "check_images",
    "default_overlap",
    "fit_image",
    "open_runtime",
    "predict_tiled",
    "recipe_windows",
]
