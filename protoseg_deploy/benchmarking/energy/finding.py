"""Which meter a machine has."""

import importlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from protoseg_deploy.benchmarking.energy.nvml import open_nvml
from protoseg_deploy.benchmarking.energy.rapl import open_rapl
from protoseg_deploy.benchmarking.energy.source import EnergySource
from protoseg_deploy.benchmarking.energy.tegrastats import open_tegrastats


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
    if device not in ("cpu", "cuda"):
        return None, "a server does the work, which has no meter here"
    board = open_tegrastats()
    if board is not None:
        return board, ""
    if shutil.which("tegrastats") is not None:  # neither RAPL nor NVML tell anything of a Jetson
        return None, "tegrastats shows no power rails: try it as root"
    return open_rapl() if device == "cpu" else _open_gpu()


def _open_gpu() -> tuple[EnergySource | None, str]:
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None, "nvidia-ml-py is not installed: pip install nvidia-ml-py"
    gpu: Any = torch.cuda.get_device_properties(torch.cuda.current_device())
    told = hasattr(gpu, "pci_bus_id")  # not by every PyTorch
    place = f"{gpu.pci_domain_id:08x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0" if told else ""
    return open_nvml(library, str(gpu.uuid), place)
