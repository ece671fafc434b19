"""``protoseg serve`` as a process of its own, for tests of what clients see."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_STARTS_WITHIN_S = 120
_STOPS_WITHIN_S = 30
_STARTED = re.compile(r"serving on \w+://(\S+) \(gRPC (\S+)\)")


@dataclass
class EmbeddedServer:
    """A server that answers."""

    http: str
    """``127.0.0.1:PORT``."""
    grpc: str
    process: subprocess.Popen[bytes]
    standard_error: Path
    """What it has written so far."""
    standard_output: Path
    """Its access log, unless an option puts it elsewhere."""

    def stop(self) -> int:
        """SIGTERM, unless it has ended; the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(_STOPS_WITHIN_S)


@contextlib.contextmanager
def embedded_server(
    *bundles: Path | str, options: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[EmbeddedServer]:
    """Serve bundles on free ports for the time of the block; it is stopped in the end, with SIGTERM.

    Args:
        bundles: as on the command line.
        options: more of ``protoseg serve``; ``--port N`` takes the place of the free port.
        environment: variables beside those of this process.
    """
    port = [] if "--port" in options else ["--port", "0"]
    command = [sys.executable, "-m", "protoseg_deploy", "serve", *map(str, bundles), *port, *options]
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        errors, output = Path(name) / "stderr", Path(name) / "stdout"
        files: list[IO[bytes]] = [stack.enter_context(path.open("wb")) for path in (output, errors)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=files[0],
            stderr=files[1],
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
        try:
            http, grpc = _addresses(process, errors)
            server = EmbeddedServer(http, grpc, process, errors, output)
            yield server
            server.stop()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _addresses(process: subprocess.Popen[bytes], errors: Path) -> tuple[str, str]:
    deadline = time.monotonic() + _STARTS_WITHIN_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        found = _STARTED.search(text := errors.read_text())
        if found:
            return found[1], found[2]
        if ended:
            raise RuntimeError(f"the server ended with {process.returncode}:\n{text}")
        time.sleep(0.05)
    raise RuntimeError(f"the server does not start:\n{errors.read_text()}")
