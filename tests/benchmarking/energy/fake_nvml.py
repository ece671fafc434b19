"""The parts of ``pynvml`` that are used, with a board that the tests steer."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class FakeNvml:
    """A GPU whose counter follows its power, in a time that the test advances; None: NotSupported."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_SUCCESS = 1, 2, 0, 0
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self, *, counter: bool = True, watts: float | None = 200.0, instant: bool = True) -> None:
        self.counter, self.power, self.instant = counter, watts, instant
        self.counter_factor = 1.0
        self.millijoules = 5e9
        self.reasons = 0x1  # idle
        self.clock = 1500
        self.uuids: list[str] = []
        self.begun = 0

    def advance(self, seconds: float) -> None:
        self.millijoules += 1000 * seconds * (self.power or 0.0) * self.counter_factor

    def nvmlInit(self) -> None:
        self.begun += 1

    def nvmlShutdown(self) -> None:
        self.begun -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.uuids.append(uuid)
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Fake H100"

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return int(self._supported(self.millijoules if self.counter else None))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return int(1000 * self._supported(self.power)) + (7 if self.instant else 0)

    def nvmlDeviceGetFieldValues(self, handle: str, fields: list[int]) -> list[SimpleNamespace]:
        assert fields == [self.NVML_FI_DEV_POWER_INSTANT]
        power = self._supported(self.power)
        value = SimpleNamespace(uiVal=int(1000 * power))
        return [SimpleNamespace(value=value, nvmlReturn=0 if self.instant else 3)]

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return self.clock if kind == self.NVML_CLOCK_SM else 2600

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def _supported(self, value: float | None) -> float:
        if value is None:
            raise NVMLError("Not Supported")
        return value
