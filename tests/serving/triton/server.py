"""A real tritonserver for the time of a block, on ports of 127.0.0.1 that nobody else uses."""

import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.serving.triton.environment import triton_environment

STARTING_S, STOPPING_S, STARTS = 120, 20, 3
ABORT = "boost::interprocess::lock_exception"
"""Of the server itself, once in a hundred starts of several Python models on a busy machine; it is started again."""


class ServerFailedError(Exception):
    """The server does not start; what it logged."""


@dataclass(frozen=True)
class TritonAddress:
    """Where a server listens."""

    http: str
    """``host:port``"""
    grpc: str
    log: Path
    pid: int


@contextmanager
def triton_server(repository: Path, log: Path, options: Sequence[str] = ()) -> Iterator[TritonAddress]:
    """Serve a repository until the end of the block.

    Args:
        repository: model repository.
        log: file for what the server says.
        options: more options of tritonserver.

    Raises:
        NoTritonError: there is no server here, see `triton_environment`.
        ServerFailedError: it does not start, such as for a model that cannot be loaded.
    """
    with ExitStack() as stack:
        for tries_left in reversed(range(STARTS)):
            attempt = stack.enter_context(ExitStack())
            try:
                address = _start(attempt, repository, log, options)
                break
            except ServerFailedError as error:
                attempt.close()
                if not tries_left or ABORT not in str(error):
                    raise
        yield address


def _start(stack: ExitStack, repository: Path, log: Path, options: Sequence[str]) -> TritonAddress:
    environment = triton_environment()
    http, grpc = _free_ports(2)
    shared = f"protoseg-{secrets.token_hex(6)}"
    command = [
        str(environment.server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={environment.server / 'backends'}",
        f"--cache-directory={environment.server / 'caches'}",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        f"--http-port={http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={grpc}",
        "--allow-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={shared}",
        *options,
    ]
    stack.callback(_remove_shared_memory, shared)  # a server that does not start leaves it
    file = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        command, stdout=file, stderr=subprocess.STDOUT, env=environment.variables(), start_new_session=True
    )
    stack.callback(_stop, process)
    _await_ready(process, http, log)
    return TritonAddress(f"127.0.0.1:{http}", f"127.0.0.1:{grpc}", log, process.pid)


def is_ready(http: str) -> bool:
    """Whether a server says that it is ready."""
    try:
        with urllib.request.urlopen(f"http://{http}/v2/health/ready", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _await_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + STARTING_S
    while not is_ready(f"127.0.0.1:{port}"):
        if process.poll() is not None or time.monotonic() > deadline:
            state = "does not become ready" if process.returncode is None else f"ended with {process.returncode}"
            raise ServerFailedError(f"tritonserver {state}:\n{log.read_text(errors='replace')[-6000:]}")
        time.sleep(0.1)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server, and its stubs, which are in its session."""
    process.terminate()
    try:
        process.wait(STOPPING_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _remove_shared_memory(prefix: str) -> None:
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
