"""The server of this program for tests: as a process of its own, or in a thread of this one, which starts quicker."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.serving.artefact import ArtefactSpec
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.metrics import Metrics
from protoseg_deploy.serving.running import Address, serve

_STARTED = re.compile(r"serving on https?://([\d.]+:\d+) \(gRPC ([\d.]+:\d+)\)")


@dataclass(frozen=True)
class Embedded:
    """A running server."""

    http: str
    """``host:port``"""
    grpc: str
    process: subprocess.Popen
    access_log: Path

    @property
    def url(self) -> str:
        return f"http://{self.http}"


@contextmanager
def embedded_server(*bundles: Path | str, options: Sequence[str] = ()) -> Iterator[Embedded]:
    """``protoseg serve BUNDLES`` on free ports of 127.0.0.1; told to end by SIGTERM, and waited for."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "access.jsonl"
        arguments = [*map(str, bundles), "--port", "0", "--access-log", str(log), *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "protoseg_deploy", "serve", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            said = ""
            for line in process.stderr:
                said += line
                if found := _STARTED.search(line):
                    break
            else:
                raise AssertionError(f"the server ended with {process.wait()}:\n{said}")
            yield Embedded(found[1], found[2], process, log)
        finally:
            process.terminate()
            try:
                process.wait(30)
            finally:
                process.kill()
                process.stderr.close()


@contextmanager
def server_thread(
    *specs: ArtefactSpec,
    limits: Limits | None = None,
    token: str = "",
    max_batch: int = 1,
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
