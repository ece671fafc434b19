"""NVIDIA GPUs through NVML (package ``nvidia-ml-py``).

Figures that a GPU, its driver or the installed package does not have are absent. Meaning of the calls and of the bits:
https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html and group__nvmlClocksEventReasons.html
"""

from typing import Any

from protoseg_deploy.benchmarking.energy.source import DeviceState

_IDLE = 0x1
_SLOWING = {
    0x4: "software power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x200: "board limit",
}
_REASONS = {
    _IDLE: "idle",
    0x2: "applications clocks setting",
    **_SLOWING,
    0x100: "display clock setting",
    0x400: "reliability voltage",
}
"""Clocks event reasons. The voltage limit holds at the highest clock of many GPUs, so that it slows none down."""
_AVERAGED_S = 1.0
"""Of ``nvmlDeviceGetPowerUsage`` on GPUs since Ampere other than GA100."""


class NvmlSource:
    """One GPU board.

    Args:
        library: the module ``pynvml``, initialised.
        handle: of the GPU.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle
        self.name = "NVML"
        shared = ", all MIG instances" if (self._ask("nvmlDeviceGetMigMode") or (0,))[0] else ""
        self.scope = f"GPU board ({self._ask('nvmlDeviceGetName') or 'NVIDIA'}{shared})"
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        self.power_mode = "" if limit is None else f"power limit {limit / 1000:g} W"
        self.averaged_s = None if self.watts() is None else _AVERAGED_S if self._instant_milliwatts() is None else 0.0

    def joules(self) -> float | None:
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def watts(self) -> float | None:
        """Instantaneous where the driver tells that; else the other figure, see `averaged_s`."""
        instant = self._instant_milliwatts()
        milliwatts = self._ask("nvmlDeviceGetPowerUsage") if instant is None else instant
        return None if milliwatts is None else milliwatts / 1000

    def state(self) -> DeviceState:
        library = self._library
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if bits is None:  # drivers before 535
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons")
        degrees = self._ask("nvmlDeviceGetTemperature", library.NVML_TEMPERATURE_GPU)
        if degrees is None:  # drivers without the older call
            degrees = self._ask("nvmlDeviceGetTemperatureV", library.NVML_TEMPERATURE_GPU)
        return DeviceState(
            clock_mhz=self._ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask("nvmlDeviceGetClockInfo", library.NVML_CLOCK_MEM),
            temperature_c=degrees,
            clock_reasons=None if bits is None else _names(_REASONS, bits),
            slowed_by=_names(_SLOWING, bits or 0),
            idle=bool((bits or 0) & _IDLE),
        )

    def close(self) -> None:
        self._library.nvmlShutdown()

    def _instant_milliwatts(self) -> int | None:
        field = getattr(self._library, "NVML_FI_DEV_POWER_INSTANT", None)
        values = None if field is None else self._ask("nvmlDeviceGetFieldValues", [field])
        if values is None or values[0].nvmlReturn != self._library.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)

    def _ask(self, call: str, *arguments: Any) -> Any:
        """What NVML answers; None where the GPU, the driver or the package has no such figure."""
        function = getattr(self._library, call, None)
        if function is None:
            return None
        try:
            return function(self._handle, *arguments)
        except self._library.NVMLError:
            return None


def open_nvml(library: Any, uuid: str, bus_id: str) -> tuple[NvmlSource | None, str]:
    """A GPU by what CUDA_VISIBLE_DEVICES does not change, or None and why not.

    Args:
        library: the module ``pynvml``.
        uuid: as PyTorch tells it.
        bus_id: on the PCI bus, ``domain:bus:device.0`` in hexadecimal digits; may be empty. A MIG instance is found by
            it: it has a UUID of its own, but no meter.
    """
    try:
        library.nvmlInit()
    except library.NVMLError as error:
        return None, f"NVML does not run here: {error}"
    handle = None
    for find, name in (
        (library.nvmlDeviceGetHandleByUUID, f"GPU-{uuid.removeprefix('GPU-')}"),
        (library.nvmlDeviceGetHandleByPciBusId, bus_id),
    ):
        try:
            handle = find(name)
            break
        except library.NVMLError:
            continue
    source = None if handle is None else NvmlSource(library, handle)
    if source is not None and (source.joules() is not None or source.averaged_s is not None):
        return source, ""
    library.nvmlShutdown()
    if source is None:
        return None, f"NVML does not know the GPU {uuid} {bus_id}".rstrip()
    return None, f"NVML tells neither energy nor power of the {source.scope}"


def _names(reasons: dict[int, str], bits: int) -> tuple[str, ...]:
    return tuple(text for bit, text in reasons.items() if bits & bit)
