"""NVIDIA Jetson boards through ``tegrastats``, whose lines differ from board to board and from release to release.

https://docs.nvidia.com/jetson/archives/r36.4/DeveloperGuide/AT/JetsonLinuxDevelopmentTools/TegrastatsUtility.html
"""

import re
import shutil
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from protoseg_deploy.benchmarking.energy.source import DeviceState

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?!\S)")
"""Name, power now and on average; in milliwatts, which JetPack before 5 does not say. ``RAM 1/2MB`` is no rail."""
_GPU = re.compile(r"GR3D_FREQ (?:(\d+)%)?(?:@\[?(\d+)(?:,\d+)*\]?)?")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?!\S)")
_TOTALS = ("VDD_IN", "POM_5V_IN", "VIN")
"""Rails through which the whole board is fed; boards without one are the sum of their rails."""
_INTERVAL_MS = 50
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class TegraReading:
    """One line."""

    rails_mw: Mapping[str, int]
    """By name, also those that nobody has heard of."""
    gpu_percent: int | None
    gpu_mhz: int | None
    temperatures_c: Mapping[str, float]

    @property
    def total_mw(self) -> int | None:
        """Of the board; None: the line has no rails."""
        for name in _TOTALS:
            if name in self.rails_mw:
                return self.rails_mw[name]
        return sum(self.rails_mw.values()) if self.rails_mw else None

    @property
    def total_of(self) -> str:
        """What `total_mw` is, for people."""
        fed = next((name for name in _TOTALS if name in self.rails_mw), None)
        return fed or " + ".join(self.rails_mw)


def parse_line(line: str) -> TegraReading:
    """Read a line of any of the known forms; what is not in it is absent."""
    gpu = _GPU.search(line)
    return TegraReading(
        rails_mw={name: int(power) for name, power in _RAIL.findall(line)},
        gpu_percent=int(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=int(gpu[2]) if gpu and gpu[2] else None,
        temperatures_c={name.lower(): float(degrees) for name, degrees in _TEMPERATURE.findall(line)},
    )


class TegrastatsSource:
    """A running ``tegrastats``.

    Args:
        process: that writes a line at a time to its standard output.
        first: its first line.
    """

    def __init__(self, process: "subprocess.Popen[str]", first: TegraReading) -> None:
        self.name = "tegrastats"
        self.scope = f"board ({first.total_of})"
        self._process, self._latest = process, first
        self._reader = threading.Thread(target=self._read, name="tegrastats", daemon=True)
        self._reader.start()

    def joules(self) -> float | None:
        return None

    def watts(self) -> float | None:
        total = self._latest.total_mw
        return None if total is None else total / 1000

    def state(self) -> DeviceState:
        latest = self._latest
        return DeviceState(clock_mhz=latest.gpu_mhz or None, temperature_c=latest.temperatures_c.get("gpu"))

    def close(self) -> None:
        _end(self._process)
        self._reader.join()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            reading = parse_line(line)
            if reading.rails_mw:
                self._latest = reading


def open_tegrastats() -> TegrastatsSource | None:
    """Start ``tegrastats``; None where there is none, or it tells no power."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen([program, "--interval", str(_INTERVAL_MS)], **options)
    timer = threading.Timer(_PATIENCE_S, _end, [process])
    timer.start()
    first = parse_line(process.stdout.readline() if process.stdout else "")
    timer.cancel()
    if not first.rails_mw:
        _end(process)
        return None
    return TegrastatsSource(process, first)


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
