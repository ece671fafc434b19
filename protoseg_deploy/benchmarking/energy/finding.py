"""Which meter a machine has."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from protoseg_deploy.benchmarking.energy.nvml import open_nvml
from protoseg_deploy.benchmarking.energy.rapl import open_rapl
from protoseg_deploy.benchmarking.energy.source import EnergySource
from protoseg_deploy.benchmarking.energy.tegrastats import open_tegrastats

_NO_GPU = "NVML tells neither energy nor power of this GPU"


@contextmanager
def energy_source(device: str) -> Iterator[tuple[EnergySource | None, str]]:
    """The meter of a device, closed after the block; or None and why there is none.

    Args:
        device: ``cpu`` or ``cuda``, where the work is done. The board of a Jetson is measured as a whole.
    """
    source, reason = _open(device)
    try:
        yield source, reason
    finally:
        if source is not None:
            source.close()


def _open(device: str) -> tuple[EnergySource | None, str]:
    board = open_tegrastats()
    if board is not None:
        return board, ""
    if device == "cpu":
        return open_rapl()
    if device != "cuda":
        return None, "the work is done on another machine"
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None, "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    gpu = open_nvml(library, str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))
    return gpu, "" if gpu is not None else _NO_GPU
