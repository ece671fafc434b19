"""The machine as probes see it: a file system, an environment, and facts that Python gives."""

import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Machine:
    """What probes take as their input; tests make one of their own."""

    root: Path
    """Of the file system: ``/proc``, ``/sys`` and ``/dev`` are looked for below it."""
    environment: Mapping[str, str]
    usable_cores: int
    """Logical cores that the process may run on (its affinity)."""
    logical_cores: int
    system: str
    """``Linux``, ``Darwin``, ``Windows``."""
    architecture: str
    """``x86_64``, ``aarch64``, …"""

    def read(self, path: str) -> str:
        """The text of a file below the root; empty where there is none or it cannot be read."""
        try:
            return (self.root / path.lstrip("/")).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """The number that a file holds; None where it holds none."""
        text = self.read(path).strip()
        return int(text) if text.removeprefix("-").isdecimal() else None

    def exists(self, path: str) -> bool:
        return (self.root / path.lstrip("/")).exists()

    def has_nvidia_hardware(self) -> bool:
        """Whether an NVIDIA GPU shows, with or without its driver."""
        if any(self.exists(path) for path in ("dev/nvidia0", "proc/driver/nvidia/version", "etc/nv_tegra_release")):
            return True
        display = "0x03"
        return any(
            self.read(f"{device}/vendor").strip() == "0x10de" and self.read(f"{device}/class").startswith(display)
            for device in self._below("sys/bus/pci/devices")
        )

    def in_container(self) -> bool:
        """Whether this is a container, as far as the usual marks tell."""
        if any(self.exists(mark) for mark in (".dockerenv", "run/.containerenv")):
            return True
        return "KUBERNETES_SERVICE_HOST" in self.environment or "container" in self.environment

    def _below(self, folder: str) -> list[str]:
        try:
            return [f"{folder}/{path.name}" for path in sorted((self.root / folder).iterdir())]
        except OSError:
            return []


def this_machine() -> Machine:
    """The one that this process runs on."""
    logical = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    root = Path(Path(sys.executable).anchor or "/")
    return Machine(root, os.environ, usable, logical, platform.system(), platform.machine().lower())
