"""Questions to libraries, each in a process of its own: a broken CUDA library takes that process down, not this one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from protoseg_deploy.diagnostics import asking

SECONDS = 60.0
"""A library that has not answered by then hangs."""


@dataclass(frozen=True)
class Answer:
    """What a library said, or why it said nothing."""

    kind: Literal["answered", "absent", "failed", "crashed", "late"]
    """``absent``: a module is not installed."""
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """One line; the name of the module where it is absent."""


Ask = Callable[..., Answer]
"""A question and its arguments, see `Processes.ask`."""


class Processes:
    """Asks in other processes, from any number of threads.

    Args:
        seconds: after which a process and all it has started are killed.
        program: that answers.
    """

    def __init__(self, seconds: float = SECONDS, program: Path = Path(asking.__file__)) -> None:
        self.seconds, self.program = seconds, program
        self._running: set[subprocess.Popen[bytes]] = set()

    def ask(self, question: str, *arguments: str) -> Answer:
        """Never raises, whatever the library does.

        Args:
            question: name of a function of `protoseg_deploy.diagnostics.asking`.
            arguments: of that function.
        """
        command = [sys.executable, "-P", "-X", "utf8", str(self.program), question, *arguments]
        # What this installation imports, and nothing that happens to lie in the working folder.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        alone: dict[str, Any] = {"start_new_session": True} if os.name == "posix" else {}
        try:
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                **alone,
            )
        except OSError as error:
            return Answer("failed", error=f"no process can be started: {error.strerror or error}")
        self._running.add(child)
        try:
            out, said = child.communicate(timeout=self.seconds)
        except subprocess.TimeoutExpired:
            _kill(child)
            return Answer("late", error=f"no answer within {self.seconds:g} s")
        finally:
            self._running.discard(child)
        return _answer(child.returncode, out.decode(errors="replace"), said.decode(errors="replace"))

    def stop(self) -> None:
        """Kill the processes under way; those who wait for them get an answer."""
        for child in tuple(self._running):
            _kill_group(child)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    _kill_group(child)
    with suppress(subprocess.TimeoutExpired):
        child.communicate(timeout=5)


def _kill_group(child: "subprocess.Popen[bytes]") -> None:
    with suppress(OSError):
        if os.name == "posix":
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


def _answer(code: int, out: str, said: str) -> Answer:
    try:
        answer = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = next((line.strip()[:400] for line in reversed(said.splitlines()) if line.strip()), "")
        return Answer("crashed", error=f"crashes ({_ending(code)})" + (f": {last}" if last else ""))
    if "facts" in answer:
        return Answer("answered", answer["facts"])
    return Answer("absent", error=answer["absent"]) if "absent" in answer else Answer("failed", error=answer["error"])


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"
