"""A GPU in main memory: the functions of the CUDA driver that are called by name, and TensorRT on ONNX Runtime."""

import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


def fake_plan(graph: Path) -> bytes:
    """Content of an engine that `tensorrt.py` computes as the graph says."""
    return b"fake plan" + graph.read_bytes()


def build_driver(folder: Path) -> None:
    """Compile ``libcuda.so.1`` into a new folder."""
    if shutil.which("cc") is None:
        pytest.skip("the driver of the fake GPU needs a C compiler")
    folder.mkdir()
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", "-pthread", str(FOLDER / "libcuda.c")]
    command += ["-o", str(folder / "libcuda.so.1")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
