"""Semi-supervised segmentation training, distillation, export, verification and benchmarking.

``import protoseg_deploy as pd`` gives what most scripts need, each imported when it is first used::

    recipe = pd.load_recipe("mine.yaml")
    pd.train(recipe, Path("runs/mine"), pd.build_method)
    pd.export_bundle(Path("runs/mine"), Path("bundles/mine"))
    class_maps = pd.open_runtime(Path("bundles/mine")).predict(images)
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from protoseg_deploy.telemetry import switch_off_telemetry

switch_off_telemetry()

try:
    __version__ = version("protoseg-deploy")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = [
    "Bundle",
    "Method",
    "ProtosegError",
    "Recipe",
    "Runtime",
    "__version__",
    "build_method",
    "evaluate",
    "export_bundle",
    "folder_samples",
    "load_recipe",
    "open_runtime",
    "register_decoder",
    "register_method",
    "train",
    "verify_bundle",
]

_HOMES = {
    "Bundle": "bundles",
    "Method": "methods",
    "ProtosegError": "errors",
    "Recipe": "recipe",
    "Runtime": "runtimes",
    "build_method": "methods",
    "evaluate": "evaluation.evaluate",
    "export_bundle": "exporting",
    "folder_samples": "evaluation.samples",
    "load_recipe": "recipe",
    "open_runtime": "runtimes",
    "register_decoder": "registry",
    "register_method": "methods",
    "train": "training",
    "verify_bundle": "exporting",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
