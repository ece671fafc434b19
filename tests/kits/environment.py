"""What tests of kits need from package registries, made once and cached; without it they are skipped."""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest
from platformdirs import user_cache_path

from tests.kits.making import CPP_RUNNER
from tests.made_once import made_once

CACHE = user_cache_path("protoseg-tests", appauthor=False)
HEADERS = "com.github.asus4.onnxruntime@0.4.9"
"""An npm package that ships the C++ headers of ONNX Runtime, which its Python package does not."""


def bare_python() -> str:
    """An interpreter with NumPy, ONNX Runtime and Pillow alone, of the versions that are installed here."""
    versions = {
        "numpy": importlib.metadata.version("numpy"),
        "onnxruntime": onnxruntime.__version__,
        "pillow": importlib.metadata.version("pillow"),
    }
    wanted = [f"{name}=={version}" for name, version in versions.items()]

    def make(folder: Path) -> None:
        _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], "a virtual environment")
        python = str(folder / "bin" / "python")
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--only-binary", ":all:"]
        _run([*pip, *wanted], f"packages for a virtual environment ({', '.join(wanted)})")

    return str(cached("runner", [sys.version, *wanted], make) / "bin" / "python")


def cpp_runner() -> Path:
    """The C++ runner, compiled against the ONNX Runtime of this interpreter."""
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the C++ runner needs {tool}")
    given = os.environ.get("PROTOSEG_ONNXRUNTIME_ROOT")
    root = Path(given) if given else _onnxruntime_root()
    sources = sorted(CPP_RUNNER.iterdir())
    inputs = [str(root), *(file.read_text(encoding="utf-8") for file in sources)]

    def make(folder: Path) -> None:
        configure = ["cmake", "-S", str(CPP_RUNNER), "-B", str(folder), f"-DONNXRUNTIME_ROOT={root}"]
        configure += ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-g0"]  # compiles faster
        configured = subprocess.run(configure, capture_output=True, text=True)
        missing = re.search(r"(\S+ (?:\S+ )?was not found: .*)", configured.stderr)
        if missing:
            pytest.skip(f"the C++ runner cannot be built: {missing[1]}")
        assert configured.returncode == 0, configured.stderr
        built = subprocess.run(
            ["cmake", "--build", str(folder), "--parallel", "2"], capture_output=True, text=True, timeout=400
        )
        assert built.returncode == 0, built.stdout + built.stderr
        assert "warning" not in built.stdout + built.stderr

    return cached("cpp", inputs, make) / "protoseg_runner"


def _onnxruntime_root() -> Path:
    """As an unpacked release: headers of the npm package, the library of the Python package."""
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("the C++ runner needs libonnxruntime.so, which this ONNX Runtime does not have")
    include = cached("headers", [HEADERS], _fetch_headers)
    version = int(re.search(r"define ORT_API_VERSION (\d+)", (include / "onnxruntime_c_api.h").read_text())[1])
    if version > int(onnxruntime.__version__.split(".")[1]):
        pytest.skip(f"ONNX Runtime {onnxruntime.__version__} is older than the headers of {HEADERS}")

    def link(folder: Path) -> None:
        (folder / "lib").mkdir(parents=True)
        (folder / "include").symlink_to(include)
        for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
            (folder / "lib" / name).symlink_to(library)

    return cached("onnxruntime", [str(library), HEADERS], link)


def _fetch_headers(folder: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("the C++ runner needs ONNX Runtime's headers: set PROTOSEG_ONNXRUNTIME_ROOT, or install npm")
    folder.mkdir(parents=True)
    _run(["npm", "pack", "--silent", "--pack-destination", str(folder), HEADERS], f"ONNX Runtime's headers ({HEADERS})")
    (package,) = folder.glob("*.tgz")
    with tarfile.open(package) as archive:
        for member in archive:
            if member.isfile() and re.search(r"ios-arm64/.*/Headers/onnxruntime_\w+\.h$", member.name):
                (folder / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    package.unlink()
    assert (folder / "onnxruntime_cxx_api.h").is_file()


def _run(command: list[str], what: str) -> None:
    """Skip the test where a registry does not answer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} could not be had within 300 s")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"{what} cannot be had here: {reason[:300]}")


def cached(name: str, inputs: list[str], make: Callable[[Path], object]) -> Path:
    """A folder below `CACHE` that is made once from the same inputs, for this and later sessions of tests."""
    digest = hashlib.sha256("\n".join([str(sys.executable), *inputs]).encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    return made_once(CACHE / f"{name}-{digest}", make)
