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
    clock_reasons: tuple[str, ...] | None = None
    """Everything that determines the clock; empty: nothing holds it below its maximum."""
    slowed_by: tuple[str, ...] = ()
    """Those of them that keep the clock below the one that was asked for: heat and power limits."""
    idle: bool = False
    """Whether the clock is low because nothing runs."""


class EnergySource(Protocol):
    """A meter; used by one thread at a time."""

    name: str
    scope: str
    """What its figures cover, for people."""
    power_mode: str
    """Of the device, for people: the limit or mode that its figures hold for; empty: it has none, or nobody tells."""
    averaged_s: float | None
    """The longest time that `watts` may be an average of; 0: it is instantaneous; None: there is none."""

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
