"""Processor packages through RAPL, as Linux shows it below ``/sys/class/powercap``.

https://www.kernel.org/doc/html/latest/power/powercap/powercap.html. AMD processors have the same files.
"""

from pathlib import Path

from protoseg_deploy.benchmarking.energy.source import DeviceState

FOLDER = Path("/sys/class/powercap")
_COUNTER = "energy_uj"


class RaplSource:
    """All packages of a machine.

    Cores and graphics are parts of a package and not counted again. Memory (``dram``) and the whole platform
    (``psys``) are domains of their own, which few machines have, and not counted at all.

    Args:
        zones: folders of the packages.
    """

    def __init__(self, zones: list[Path]) -> None:
        self.name = "RAPL"
        self.scope = "processor package" if len(zones) == 1 else f"{len(zones)} processor packages"
        self.power_mode = ""
        self.averaged_s: float | None = None
        self._counters = [_Counter(zone) for zone in zones]

    def joules(self) -> float | None:
        try:
            return sum(counter.microjoules() for counter in self._counters) / 1e6
        except (OSError, ValueError):
            return None

    def watts(self) -> float | None:
        return None

    def state(self) -> DeviceState:
        return DeviceState()

    def close(self) -> None:
        """Nothing was started."""


class _Counter:
    """A counter that begins again at zero after some time, made one that only grows."""

    def __init__(self, zone: Path) -> None:
        self._file = zone / _COUNTER
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last, self._passed = self._read(), 0

    def microjoules(self) -> int:
        """Since the construction."""
        now = self._read()
        self._passed += (now - self._last) % (self._range + 1)
        self._last = now
        return self._passed

    def _read(self) -> int:
        return int(self._file.read_text())


def open_rapl(folder: Path = FOLDER) -> tuple[RaplSource | None, str]:
    """The packages below a folder, or None and why not."""
    zones = sorted(zone for zone in folder.glob("intel-rapl:*") if zone.name.count(":") == 1 and _is_package(zone))
    if not zones:
        return None, "this system shows no energy counter of the processor (RAPL); virtual machines have none"
    try:
        return RaplSource(zones), ""
    except PermissionError:
        return None, (
            f"the energy counter of the processor may be read by root alone: "
            f"sudo chmod a+r {folder}/intel-rapl:*/{_COUNTER}"
        )
    except (OSError, ValueError) as error:
        return None, f"the energy counter of the processor cannot be read: {error}"


def _is_package(zone: Path) -> bool:
    try:
        return (zone / "name").read_text().startswith("package")
    except OSError:
        return False
