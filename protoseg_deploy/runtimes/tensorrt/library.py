"""The two libraries that build and run engines, behind the API they share.

``tensorrt`` (10 and 11, data-centre GPUs and Jetson) builds for the GPU of this machine. ``tensorrt-rtx`` (GeForce and
RTX GPUs) builds for any number of targets, without a GPU, and finishes the kernels on the machine that runs them.
"""

import importlib
from typing import Any, Literal

from protoseg_deploy.errors import UsageError

EngineKind = Literal["tensorrt", "tensorrt-rtx"]
LIBRARY_NAMES: dict[EngineKind, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

_MODULES: dict[EngineKind, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_OLDEST: dict[EngineKind, int] = {"tensorrt": 10, "tensorrt-rtx": 1}


def load_library(kind: EngineKind) -> Any:
    """The Python module of a library.

    Raises:
        UsageError: it is not installed, cannot be loaded, or is too old for strongly typed networks.
    """
    name = LIBRARY_NAMES[kind]
    install = f"pip install 'protoseg-deploy[{kind}]'"
    try:
        library = importlib.import_module(_MODULES[kind])
    except ModuleNotFoundError:
        raise UsageError(f"{name} is not installed", install) from None
    except (ImportError, OSError) as error:
        raise UsageError(f"{name} is installed but cannot be loaded: {error}", install) from None
    version = str(library.__version__)
    if int(version.partition(".")[0]) < _OLDEST[kind]:
        raise UsageError(f"{name} {version} is too old: {_OLDEST[kind]} or newer is needed", install)
    return library


def open_log(library: Any) -> Any:
    """A logger for the library that keeps errors in ``errors`` and prints nothing."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


def reasons(log: Any, shown: int = 2) -> str:
    """The first errors of a log in one line each; the first is the cause, later ones follow from it."""
    # Without a GPU the libraries complain about that too, whatever the error is.
    told = [message for message in log.errors if "cudaError" not in message] or log.errors
    lines = [" ".join(message.split())[:400] for message in told[:shown]]
    return "; ".join(lines) or "the library gives no reason"
