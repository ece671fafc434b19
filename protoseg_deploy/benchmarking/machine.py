"""The machine a figure was measured on: a latency without it is meaningless."""

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from protoseg_deploy.benchmarking.energy.jetson import read_power_mode

_LIBRARIES = (
    "protoseg-deploy",
    "torch",
    "onnxruntime-gpu",
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "openvino",
    "numpy",
)


@dataclass(frozen=True)
class Machine:
    """Hardware, software and load."""

    cpu: str
    physical_cores: int | None
    logical_cores: int | None
    usable_cores: int
    """Logical cores this process may run on."""
    cpu_governor: str | None
    """How the clock is chosen, where the system tells: anything but ``performance`` may slow short measurements."""
    cpu_affinity: str
    """Which they are: ``0-3,8``."""
    memory_gib: float
    gpu: str | None
    os: str
    python: str
    libraries: dict[str, str]
    load_average_1min: float | None
    """Runnable processes over the last minute, when the measurement began: load from other programs shows here."""
    power_mode: str | None
    """Of a Jetson, see `PowerMode`; None elsewhere."""
    date: str
    """When the measurement began, UTC, YYYY-MM-DD."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def describe_machine() -> Machine:
    """Look at the machine this process runs on."""
    import psutil

    usable = sorted(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))
    mode = read_power_mode()
    return Machine(
        cpu=_cpu_model(),
        physical_cores=psutil.cpu_count(logical=False),
        logical_cores=psutil.cpu_count(),
        usable_cores=len(usable),
        cpu_affinity=_ranges(usable),
        cpu_governor=_governor(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        os=platform.platform(),
        python=platform.python_version(),
        libraries={name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        load_average_1min=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        power_mode=str(mode) if mode else None,
        date=datetime.now(UTC).date().isoformat(),
    )


def gpu_memory_used_mib() -> float:
    """Memory in use on the current GPU by all processes and libraries, in MiB."""
    free, total = torch.cuda.mem_get_info()
    return (total - free) / 2**20


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ``0-3,8``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
