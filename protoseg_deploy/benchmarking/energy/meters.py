"""The meters of all devices that one measurement uses."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

from protoseg_deploy.benchmarking.energy.finding import energy_source
from protoseg_deploy.benchmarking.energy.measuring import EnergyFigures, Seen, idle_watts, measure_energy, watched
from protoseg_deploy.benchmarking.energy.source import EnergySource
from protoseg_deploy.runtimes.base import Runtime, UInt8Array

_WATCH_S = 0.1


class DeviceMeters:
    """Open while a measurement lasts. GPUs are watched in any case, as heat and power limits slow them down.

    Args:
        devices: of the runtimes: ``cpu``, ``cuda`` or ``remote``.
        energy: whether energy is measured; then the idle power of each device comes first.
    """

    def __init__(self, devices: Sequence[str], energy: bool) -> None:
        self._devices = [device for device in dict.fromkeys(devices) if energy or device == "cuda"]
        self._energy = energy
        self._stack = ExitStack()
        self._sources: dict[str, tuple[EnergySource | None, str]] = {}
        self._idle: dict[str, float | None] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for device in self._devices:
                source, _ = self._sources[device] = stack.enter_context(energy_source(device))
                if self._energy and source is not None:
                    self._idle[device] = idle_watts(source)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """What the GPU tells while the block runs; without one nothing is seen."""
        with watched(self._sources.get("cuda", (None, ""))[0], _WATCH_S, power=False) as seen:
            yield seen

    def cost(self, runtime: Runtime, images: UInt8Array) -> tuple[EnergyFigures | None, str]:
        """Energy of a runtime on images, or None and why not; both empty where energy is not measured."""
        device = runtime.info.device
        if not self._energy:
            return None, ""
        source, reason = self._sources[device]
        if source is None:
            return None, reason
        idle = self._idle[device]
        found = None if idle is None else measure_energy(lambda: runtime.predict(images), len(images), source, idle)
        return found, "" if found is not None else f"{source.name} stopped telling energy and power meanwhile"
