"""``protoseg serve`` as a process of its own, or its server in a thread of this one, which starts quicker."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from protoseg_deploy.serving.artefact import ArtefactSpec
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.metrics import Metrics
from protoseg_deploy.serving.running import Address, serve

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


@contextlib.contextmanager
def server_thread(
    *specs: ArtefactSpec,
    limits: Limits | None = None,
    token: str = "",
    max_batch: int | None = None,
    tls: tuple[Path, Path] | tuple[None, None] = (None, None),
) -> Iterator[tuple[str, str]]:
    """A server in a thread; its addresses for HTTP and gRPC."""
    addresses: list[str] = []
    errors: list[BaseException] = []
    loop, stop, answering = asyncio.new_event_loop(), asyncio.Event(), threading.Event()

    def started(*places: str) -> None:
        addresses.extend(places)
        answering.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        catalog = Catalog(specs, limits or Limits(), Metrics(), max_batch=max_batch)
        try:
            loop.run_until_complete(
                serve(
                    catalog,
                    Address("localhost" if tls[0] else "127.0.0.1", 0, None, *tls),
                    token=token,
                    started=started,
                    stop=stop,
                )
            )
        except BaseException as error:
            errors.append(error)
        finally:
            answering.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        answering.wait(120)
        if not addresses:
            raise errors[0]
        yield addresses[0], addresses[1]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
        loop.close()
    if errors:
        raise errors[0]
