"""What a recipe costs on this machine: steps are computed in a process of their own, which may run out of memory."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protoseg_deploy.text import one_line

_TIME_LIMIT_S = 300.0
_WORTH_IT = 1.3
_MEMORY_SHARE = 0.6
_MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """Of one step."""

    step_ms: float
    memory_mib: float


@dataclass(frozen=True)
class Fitting:
    """What was found out by trying."""

    batch: int
    precision: str
    cost: Cost | None
    """None: nothing could be computed."""
    batch_reason: str
    precision_reason: str


def fit_to_machine(recipe: Path, method: str, batch: int, on_gpu: bool, available_mib: float) -> Fitting:
    """Find the largest batch, halved until it fits, and the precision that is worth it.

    Args:
        recipe: a recipe file; its data are not read.
        method: whose steps.
        batch: of labelled and of unlabelled images to begin with.
        on_gpu: bf16 needs no proof there.
        available_mib: memory of the machine; that of a GPU shows by trying.
    """
    precision = "bf16" if on_gpu else "fp32"
    cost, fault = try_steps(recipe, method, batch, precision)
    while batch > 1 and not _fits(cost, fault, on_gpu, available_mib):
        batch //= 2
        cost, fault = try_steps(recipe, method, batch, precision)
    if cost is None:
        return Fitting(batch, precision, None, f"could not be tried: {fault}", "could not be tried")
    reason = f"a step takes {cost.step_ms / 1000:.2g} s and {cost.memory_mib:.0f} MiB"
    if on_gpu:
        return Fitting(batch, precision, cost, reason, "on a GPU half the memory")
    low, _ = try_steps(recipe, method, batch, "bf16")
    if low is None:
        return Fitting(batch, "fp32", cost, reason, "this processor does not compute bf16")
    ratio = cost.step_ms / low.step_ms
    if ratio < _WORTH_IT:
        return Fitting(batch, "fp32", cost, reason, f"bf16 is {ratio:.2g} times as fast here: not worth it")
    reason = f"a step takes {low.step_ms / 1000:.2g} s and {low.memory_mib:.0f} MiB"
    return Fitting(batch, "bf16", low, reason, f"{ratio:.2g} times as fast as fp32 here")


def _fits(cost: Cost | None, fault: str, on_gpu: bool, available_mib: float) -> bool:
    """Whether a smaller batch would help: another fault than that of the memory stays whatever the batch is."""
    if cost is None:
        return "memory" not in fault.lower()
    return on_gpu or cost.memory_mib < _MEMORY_SHARE * available_mib


def try_steps(recipe: Path, method: str, batch: int, precision: str) -> tuple[Cost | None, str]:
    """The cost, or why there is none."""
    overrides = [f"train.batch_labeled={batch}", f"train.batch_unlabeled={batch}", f"train.precision={precision}"]
    words = ["bench-train", str(recipe), *overrides, "--no-data", "--method", method, "--rounds", "2", "--steps", "1"]
    try:
        done = _protoseg([*words, "--json"])
    except subprocess.TimeoutExpired:
        return None, f"a step takes more than {_TIME_LIMIT_S:.0f} s"
    if done.returncode < 0:
        return None, "killed, as when the memory is used up"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return None, one_line(lines[0].removeprefix("Error: ")) if lines else f"ended with {done.returncode}"
    document: dict[str, Any] = json.loads(done.stdout)
    found = document["methods"][method]
    return Cost(found["step"]["median_ms"], found["peak_memory_mib"]), ""


def _protoseg(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "protoseg_deploy", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIME_LIMIT_S)


def available_memory_mib() -> float:
    """What the system could give to a new program."""
    import psutil  # here, because it imports `resource` on Unix

    return float(psutil.virtual_memory().available / _MIB)
