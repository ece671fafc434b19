"""Whatever segments, behind one protocol: a PyTorch run or network file, an ONNX bundle or graph."""

from typing import TYPE_CHECKING, Any

from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, UInt8Array, check_images
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.tiling import default_overlap, fit_image, predict_tiled

if TYPE_CHECKING:
    from protoseg_deploy.runtimes.pytorch import PyTorchRuntime, recipe_windows

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


def __getattr__(name: str) -> Any:
    """What needs the networks is imported when it is asked for: compiled graphs do without timm and torchvision."""
    if name in ("PyTorchRuntime", "recipe_windows"):
        from protoseg_deploy.runtimes import pytorch

        return getattr(pytorch, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
