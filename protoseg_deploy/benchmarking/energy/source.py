"""What tells power, energy, clocks and temperature, whatever the hardware."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class DeviceState:
    """Of one moment; None where the hardware does not tell."""

    clock_mhz: float | None = None
    """Of the compute units."""
    memory_clock_mhz: float | None = None
    temperature_c: float | None = None
    slowed_by: tuple[str, ...] = ()
    """What keeps the clock below the one that was asked for."""


class EnergySource(Protocol):
    """A meter; used by one thread at a time."""

    name: str
    scope: str
    """What its figures cover, for people."""

    def joules(self) -> float | None:
        """A counter that only grows; None where there is none."""
        ...

    def watts(self) -> float | None:
        """Power at this moment; None where nobody tells."""
        ...

    def state(self) -> DeviceState: ...

    def close(self) -> None:
        """Whatever it started ends."""
        ...
