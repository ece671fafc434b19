"""NVIDIA GPUs through NVML (package ``nvidia-ml-py``).

Figures that a GPU does not have are absent. Meaning of the calls and of the bits:
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from collections.abc import Callable
from typing import Any

from protoseg_deploy.benchmarking.energy.source import DeviceState

_SLOWING = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
"""Clocks event reasons. Left out: idle, clocks that the user has set, and the clock of a display."""


class NvmlSource:
    """One GPU board.

    Args:
        library: the module ``pynvml``, initialised.
        handle: of the GPU.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle
        self.name = "NVML"
        self.scope = f"GPU board ({self._tell(library.nvmlDeviceGetName) or 'NVIDIA'})"

    def joules(self) -> float | None:
        millijoules = self._tell(self._library.nvmlDeviceGetTotalEnergyConsumption)
        return None if millijoules is None else millijoules / 1000

    def watts(self) -> float | None:
        """Instantaneous where the driver tells that; else the other figure, which many GPUs average over a second."""
        instant = self._tell(lambda handle: _instant_milliwatts(self._library, handle))
        milliwatts = self._tell(self._library.nvmlDeviceGetPowerUsage) if instant is None else instant
        return None if milliwatts is None else milliwatts / 1000

    def state(self) -> DeviceState:
        library = self._library
        reasons = getattr(library, "nvmlDeviceGetCurrentClocksEventReasons", None) or getattr(
            library, "nvmlDeviceGetCurrentClocksThrottleReasons", None
        )
        bits = (self._tell(reasons) if reasons else None) or 0
        return DeviceState(
            clock_mhz=self._tell(lambda handle: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)),
            memory_clock_mhz=self._tell(lambda handle: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_MEM)),
            temperature_c=self._tell(
                lambda handle: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)
            ),
            slowed_by=tuple(text for bit, text in _SLOWING.items() if bits & bit),
        )

    def close(self) -> None:
        self._library.nvmlShutdown()

    def _tell(self, call: Callable[[Any], Any]) -> Any:
        """What NVML answers; None where it has no such figure."""
        try:
            return call(self._handle)
        except self._library.NVMLError:
            return None


def open_nvml(library: Any, uuid: str) -> NvmlSource | None:
    """The GPU of a UUID; None where NVML does not run or has no energy and no power of it, as on a Jetson.

    Args:
        library: the module ``pynvml``.
        uuid: as PyTorch tells it: CUDA_VISIBLE_DEVICES changes the order of devices, but not this.
    """
    try:
        library.nvmlInit()
    except library.NVMLError:
        return None
    try:
        source = NvmlSource(library, library.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}"))
    except library.NVMLError:
        library.nvmlShutdown()
        return None
    if source.joules() is None and source.watts() is None:
        source.close()
        return None
    return source


def _instant_milliwatts(library: Any, handle: Any) -> int | None:
    if not hasattr(library, "NVML_FI_DEV_POWER_INSTANT"):
        return None
    (value,) = library.nvmlDeviceGetFieldValues(handle, [library.NVML_FI_DEV_POWER_INSTANT])
    return int(value.value.uiVal) if value.nvmlReturn == library.NVML_SUCCESS else None
