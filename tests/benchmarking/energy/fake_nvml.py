"""The parts of ``pynvml`` that are used, with a board that the tests steer."""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class FakeNvml:
    """A GPU whose counter follows its power, in a time of its own; None: NotSupported.

    Args:
        counter: whether it has one.
        watts: its power.
        instant: whether it tells that of this moment.
        step_s: time that passes whenever its clocks event reasons are asked for, which is once for each sample.
    """

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_SUCCESS = 1, 2, 0, 0
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(
        self, *, counter: bool = True, watts: float | None = 200.0, instant: bool = True, step_s: float = 0.0
    ) -> None:
        self.counter, self.power, self.instant, self.step_s = counter, watts, instant, step_s
        self.counter_factor = 1.0
        self.now = 1000.0
        self.reasons = 0x1  # idle
        self.clock = 1500
        self.uuids: list[str] = []
        self.places: list[str] = []
        self.begun = 0
        self.mig = 0

    def nvmlInit(self) -> None:
        self.begun += 1

    def nvmlShutdown(self) -> None:
        self.begun -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.uuids.append(uuid)
        if self.mig:
            raise NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetHandleByPciBusId(self, place: str) -> str:
        self.places.append(place)
        return place

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "Fake H100"

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        return [self.mig, self.mig]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        return round(1000 * self.now * self.counter_factor * self._supported(self.power if self.counter else None))

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
        self.now += self.step_s
        return self.reasons

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return 61

    def _supported(self, value: float | None) -> float:
        if value is None:
            raise NVMLError("Not Supported")
        return value


class OldNvml(FakeNvml):
    """A driver before 535, which knows the reasons by their older name."""

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        raise NVMLError("Function Not Found")

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return self.reasons


class NewNvml(FakeNvml):
    """A package without the calls that NVIDIA is going to remove; the board has no reasons and no clocks."""

    nvmlDeviceGetTemperature = None
    nvmlDeviceGetClockInfo = None
    nvmlDeviceGetCurrentClocksEventReasons = None

    def nvmlDeviceGetTemperatureV(self, handle: str, sensor: int) -> int:
        return 44
