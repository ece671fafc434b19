"""What the device is, and whether it is limited at the moment."""

import os
import platform
import re
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from protoseg_deploy.benchmarking.energy.jetson import read_power_mode

LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "numpy")
PI_LIMITS = {0x1: "under-voltage", 0x2: "a capped clock", 0x4: "throttling", 0x8: "the soft temperature limit"}
"""Bits of ``vcgencmd get_throttled`` on a Raspberry Pi that are set at this moment; higher ones are of the past.
https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
"""


def describe_device() -> dict[str, Any]:
    """The machine of a row of `protoseg bench --json`."""
    mode = read_power_mode()
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        "cpu": _board() or _cpu(),
        "gpu": None,
        "logical_cores": os.cpu_count(),
        "usable_cores": len(usable),
        "cpu_governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        "cpu_khz": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq") or None,
        "power_mode": str(mode) if mode else None,
        "os": platform.platform(),
        "python": platform.python_version(),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "load_average_1min": round(os.getloadavg()[0], 2),
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def limits_now() -> set[str]:
    """What keeps a Raspberry Pi below its clock at this moment; empty on other boards."""
    if shutil.which("vcgencmd") is None:
        return set()
    try:
        said = subprocess.run(["vcgencmd", "get_throttled"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return set()
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", said.stdout)
    bits = int(found[1], 16) if found else 0
    return {text for bit, text in PI_LIMITS.items() if bits & bit}


def resident_mib() -> float | None:
    """The most memory of this process that was resident at a time."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", _read("/proc/self/status"))
    return round(int(peak[1]) / 1024, 1) if peak else None


def _board() -> str:
    """Such as ``Raspberry Pi 5 Model B Rev 1.0`` or ``NVIDIA Jetson Orin Nano Developer Kit``."""
    return _read("/proc/device-tree/model").strip("\0 ")


def _cpu() -> str:
    name = re.search(r"model name\s*: *(.+)", _read("/proc/cpuinfo"))
    return name[1] if name else platform.machine()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
