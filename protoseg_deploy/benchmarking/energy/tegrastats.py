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

from protoseg_deploy.benchmarking.energy.jetson import read_power_mode
from protoseg_deploy.benchmarking.energy.source import DeviceState

_RAIL = re.compile(r"(?<!\S)([A-Z][A-Z0-9_]*) (-?\d+)(?:mW)?(?:/-?\d+(?:mW)?)+(?!\S)")
"""Name and power: now, on average and, since JetPack 7.2, at its peak. In milliwatts, which JetPack before 5 does not
say; less than nothing where a sensor has an offset. ``RAM 1/2MB`` is no rail."""
_GPU = re.compile(r"GR3D_FREQ (?:(\d+)%)?(?:@\[?(\d+(?:, ?\d+)*)\]?)?")
_TEMPERATURE = re.compile(r"(?<!\S)(\w+)@(-?\d+(?:\.\d+)?)C(?:/-?\d+(?:\.\d+)?C)*(?!\S)")
_TOTALS = {"VIN": "board", "VDD_IN": "module", "POM_5V_IN": "module"}
"""Rails through which everything else is fed, and what that is: ``VIN`` feeds the carrier board as well."""
_PARTS = ("VDDQ_VDD2_1V8AO",)
"""Rails that are fed by another one of the line (here ``VIN_SYS_5V0``), and not to be added."""
_INTERVAL_MS = 50
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class TegraReading:
    """One line."""

    rails_mw: Mapping[str, int]
    """By name, also those that nobody has heard of."""
    gpu_percent: int | None
    gpu_mhz: int | None
    """Of the fastest of its clusters."""
    temperatures_c: Mapping[str, float]

    @property
    def total_mw(self) -> int | None:
        """By the rail that feeds the others, else their sum; None: the line has no rails."""
        return sum(self.rails_mw[name] for name in self._summed) if self.rails_mw else None

    @property
    def total_of(self) -> str:
        """What `total_mw` is, for people."""
        return f"{_TOTALS.get(self._summed[0], 'module')} ({' + '.join(self._summed)})" if self.rails_mw else ""

    @property
    def _summed(self) -> list[str]:
        feeding = [name for name in _TOTALS if name in self.rails_mw][:1]
        return feeding or [name for name in self.rails_mw if name not in _PARTS]


def parse_line(line: str) -> TegraReading:
    """Read a line of any of the known forms; what is not in it is absent."""
    gpu = _GPU.search(line)
    return TegraReading(
        rails_mw={name: int(power) for name, power in _RAIL.findall(line)},
        gpu_percent=int(gpu[1]) if gpu and gpu[1] else None,
        gpu_mhz=max(int(clock) for clock in gpu[2].split(",")) if gpu and gpu[2] else None,
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
        self.scope = first.total_of
        self.power_mode = str(read_power_mode() or "")
        self.averaged_s: float | None = 0.0
        self._process = process
        self._latest: TegraReading | None = first
        self._reader = threading.Thread(target=self._read, name="tegrastats", daemon=True)
        self._reader.start()

    def joules(self) -> float | None:
        return None

    def watts(self) -> float | None:
        latest = self._latest
        return None if latest is None or latest.total_mw is None else latest.total_mw / 1000

    def state(self) -> DeviceState:
        latest = self._latest
        if latest is None:
            return DeviceState()
        degrees = latest.temperatures_c.get("gpu", latest.temperatures_c.get("tj"))  # Thor hides that of an idle GPU
        return DeviceState(clock_mhz=latest.gpu_mhz or None, temperature_c=degrees)

    def close(self) -> None:
        _end(self._process)
        self._reader.join()
        if self._process.stdout:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            reading = parse_line(line)
            if reading.rails_mw:
                self._latest = reading
        self._latest = None


def open_tegrastats() -> TegrastatsSource | None:
    """Start ``tegrastats``; None where there is none, or it tells no power."""
    program = shutil.which("tegrastats")
    if program is None:
        return None
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "errors": "replace"}
    try:
        process = subprocess.Popen([program, "--interval", str(_INTERVAL_MS)], **options)
    except OSError:
        return None
    timer = threading.Timer(_PATIENCE_S, _end, [process])
    timer.start()
    try:
        first = parse_line(process.stdout.readline() if process.stdout else "")
        if first.rails_mw:
            return TegrastatsSource(process, first)
    except BaseException:
        _end(process)
        raise
    finally:
        timer.cancel()
    _end(process)
    if process.stdout:
        process.stdout.close()
    return None


def _end(process: "subprocess.Popen[str]") -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
