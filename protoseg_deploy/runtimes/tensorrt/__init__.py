"""Engines of TensorRT and TensorRT-RTX: what they are, where they run, and running them."""

from protoseg_deploy.runtimes.tensorrt.library import EngineKind, load_library
from protoseg_deploy.runtimes.tensorrt.runtime import TensorRTRuntime
from protoseg_deploy.runtimes.tensorrt.sidecar import EngineSidecar, LayerTable, Profile, read_sidecar

__all__ = [
    "EngineKind",
    "EngineSidecar",
    "LayerTable",
    "Profile",
    "TensorRTRuntime",
    "load_library",
    "read_sidecar",
]
