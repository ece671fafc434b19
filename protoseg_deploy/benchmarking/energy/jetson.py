"""The power mode of a Jetson, and whether its clocks are fixed: the same board may be several times as fast."""

import re
import shutil
import subprocess
from dataclasses import dataclass

_LONGEST_S = 10.0


@dataclass(frozen=True)
class PowerMode:
    """What ``nvpmodel -q`` and ``jetson_clocks --show`` say."""

    name: str
    """Such as ``MAXN`` or ``15W``."""
    clocks_fixed: bool | None
    """Whether the clock of the GPU is held at its maximum (``jetson_clocks``); None: nobody tells."""

    def __str__(self) -> str:
        fixed = {True: ", clocks fixed", False: ", clocks vary (sudo jetson_clocks fixes them)", None: ""}
        return f"{self.name}{fixed[self.clocks_fixed]}"


def read_power_mode() -> PowerMode | None:
    """None where this is no Jetson."""
    name = re.search(r"NV Power Mode: *(\S+)", _said("nvpmodel", "-q"))
    if name is None:
        return None
    gpu = re.search(r"GPU MinFreq=(\d+) MaxFreq=(\d+)", _said("jetson_clocks", "--show"))
    return PowerMode(name[1], gpu[1] == gpu[2] if gpu else None)


def _said(*command: str) -> str:
    """Standard output of a program; empty where it is not there, fails or needs root."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
