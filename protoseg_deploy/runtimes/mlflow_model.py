"""A bundle as a model of MLflow: ``mlflow.pyfunc.load_model(…).predict(images)``.

MLflow finds `_load_pyfunc` by the name of this module, which a model's ``MLmodel`` file holds; nothing is unpickled.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from protoseg_deploy import __version__
from protoseg_deploy.bundles import Bundle
from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import Runtime, UInt8Array
from protoseg_deploy.runtimes.opening import open_runtime


class BundleModel:
    """What MLflow calls.

    Args:
        runtime: of the bundle.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> UInt8Array:
        """Class maps of images.

        Args:
            model_input: uint8 RGB ``[B,H,W,3]``, as an array or what NumPy makes one of.
            params: none are known.

        Returns:
            ``[B,H,W]`` class indices; uint8, or int32 above 256 classes.

        Raises:
            UsageError: it is no batch of images.
        """
        if params:
            raise UsageError(f"a bundle takes no parameters; got {', '.join(sorted(params))}")
        return self.runtime.predict(np.ascontiguousarray(np.asarray(model_input)))


def _load_pyfunc(path: str, model_config: dict[str, Any] | None = None) -> BundleModel:
    """Called by MLflow with the folder of the bundle.

    ``model_config`` of ``load_model`` may give ``device``, ``precision``, ``backend`` and ``threads``, as of
    `open_runtime`.
    """
    return BundleModel(open_runtime(Path(path), **(model_config or {})))


def log_model(bundle: Bundle, name: str = "bundle") -> Any:
    """Log a bundle as a model into MLflow's active run.

    Args:
        bundle: as exported; its folder is copied into the store.
        name: of the model.

    Returns:
        MLflow's ``ModelInfo``.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    wide = len(bundle.manifest.classes.names) > 256
    size = bundle.manifest.input.fixed_size or (-1, -1)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.uint8), (-1, *size, 3), name=None)]),
        Schema([TensorSpec(np.dtype(np.int32 if wide else np.uint8), (-1, *size), name=None)]),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)  # the signature is known
        return mlflow.pyfunc.log_model(
            name=name,
            loader_module=__name__,
            data_path=str(bundle.folder),
            signature=signature,
            pip_requirements=[f"protoseg-deploy[mlflow]=={__version__}"],
        )
