"""A Python environment with a real tritonserver: made once from the package index, then kept.

The package ``nvidia-pytriton`` holds the server with its Python backend alone, for Linux. It needs NumPy 1, and so an
environment of its own.
"""

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxruntime as ort
import PIL
from platformdirs import user_cache_path

from protoseg_deploy.locks import LockedError, sole_writer

VARIABLE = "PROTOSEG_TRITON_ENV"
"""Folder of the environment; in the user's cache when absent."""
SERVER = "nvidia-pytriton==0.7.*"
# The same ONNX Runtime and Pillow as here: what differs is the server alone.
LIBRARIES = ("numpy==1.26.*", f"onnxruntime=={ort.__version__}", f"pillow=={PIL.__version__}")
MAKING_S = 400


class NoTritonError(Exception):
    """Why there is no environment."""


@dataclass(frozen=True)
class TritonEnvironment:
    """Where things lie in it."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def server(self) -> Path:
        """Folder of tritonserver: ``bin``, ``backends``, ``caches``."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "lib" / version / "site-packages" / "pytriton" / "tritonserver"

    def variables(self) -> dict[str, str]:
        """Of a process of the server. Its Python backend takes the first interpreter on PATH."""
        libraries = [self.server.parents[1] / "nvidia_pytriton.libs", self.server / "external_libs"]
        libraries.append(Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTHON")},
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "LD_LIBRARY_PATH": os.pathsep.join(map(str, libraries)),
            "VIRTUAL_ENV": str(self.folder),
            "OMP_NUM_THREADS": "1",
        }


@cache
def triton_environment() -> TritonEnvironment:
    """The environment, made now if it is not there.

    Raises:
        NoTritonError: it cannot be made here.
    """
    if sys.platform != "linux":
        raise NoTritonError(f"nvidia-pytriton has no server for {sys.platform}")
    given = os.environ.get(VARIABLE)
    key = f"{platform.machine()}-{sys.version_info.major}.{sys.version_info.minor}-{ort.__version__}-{PIL.__version__}"
    folder = Path(given) if given else user_cache_path("protoseg", appauthor=False) / "triton-tests" / key
    environment = TritonEnvironment(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with sole_writer(folder.with_name(f".{folder.name}.lock"), str(folder), wait_s=MAKING_S):
            if not (folder / ".complete").is_file():
                try:
                    _make(environment)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
    except (LockedError, OSError) as error:
        raise NoTritonError(f"{folder}: {error}") from None
    return environment


def _make(environment: TritonEnvironment) -> None:
    shutil.rmtree(environment.folder, ignore_errors=True)
    pip = [str(environment.python), "-m", "pip", "install", "--quiet", "--retries", "1", "--timeout", "20"]
    _run([sys.executable, "-m", "venv", str(environment.folder)])
    _run([*pip, "--no-deps", SERVER])  # its own dependencies are those of its Python interface
    _run([*pip, *LIBRARIES])
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = environment.server / "python_backend_stubs" / version / stub
    if not found.is_file():
        raise NoTritonError(f"{SERVER} has no Python backend for Python {version}")
    shutil.copy2(found, environment.server / "backends" / "python" / stub)
    (environment.folder / ".complete").touch()


def _run(command: list[str]) -> None:
    what = f"{command[2]} of {', '.join(word for word in command[3:] if '==' in word) or command[3]}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MAKING_S)
    except subprocess.TimeoutExpired:
        raise NoTritonError(f"{what} took more than {MAKING_S} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines()
        raise NoTritonError(f"{what}: {lines[-1][:300] if lines else 'it failed'}")
