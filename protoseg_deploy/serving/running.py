"""A server from its start to its end: HTTP and gRPC on one event loop, and signals."""

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import IO, Any

import grpc
import uvicorn
from tritonclient.grpc import service_pb2_grpc

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.serving.access_log import AccessLog
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.connections import HttpProtocol
from protoseg_deploy.serving.grpc_service import GrpcService
from protoseg_deploy.serving.guard import Guard
from protoseg_deploy.serving.http import HttpService

_log = logging.getLogger(__name__)
_MESSAGE_SLACK = 2**20
"""Bytes of a gRPC message beside its tensors."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    grpc_port: int | None = None
    """None: one above `port`."""
    certificate: Path | None = None
    """TLS, in PEM; with `key`."""
    key: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only programs on this machine reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class _HttpServer(uvicorn.Server):
    """Signals are the business of `serve`, which ends HTTP and gRPC together."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    catalog: Catalog,
    address: Address,
    *,
    token: str = "",
    access_log: IO[str] | None = None,
    started: Callable[[str, str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Load the models and answer until SIGINT or SIGTERM; then requests under way are answered before it returns.

    Outside the main thread, where there are no signals, it ends by `stop` alone.

    Args:
        catalog: what to serve.
        address: where.
        token: see `Guard`.
        access_log: see `AccessLog`.
        started: called with the addresses of HTTP and gRPC (``127.0.0.1:8000``) once both answer.
        stop: ends the server as a signal does.

    Raises:
        ProtosegError: a model cannot be served.
        UsageError: a port is taken, or certificate and key cannot be used.
    """
    stop = stop or asyncio.Event()
    with _stopping_on_signals(stop):
        await catalog.load()
        log = AccessLog(access_log, catalog)
        listening = _listen(address.host, address.port)
        port = listening.getsockname()[1]
        guard = Guard(token, catalog.limits)
        http = _HttpServer(_http_config(HttpService(catalog, log, guard), address, catalog))
        try:
            rpc, rpc_port = await _start_grpc(GrpcService(catalog, log, guard), address, port, catalog)
        except BaseException:
            listening.close()
            raise
        answering = asyncio.create_task(http.serve(sockets=[listening]))
        watching = asyncio.create_task(catalog.watch())
        try:
            while not http.started and not answering.done():
                await asyncio.sleep(0.01)
            if started is not None and not answering.done():
                started(f"{_shown(address.host)}:{port}", f"{_shown(address.host)}:{rpc_port}")
            await asyncio.wait(
                [answering, watching, waiting := asyncio.create_task(stop.wait())],
                return_when=asyncio.FIRST_COMPLETED,
            )
            waiting.cancel()
        finally:
            watching.cancel()
            catalog.stopping = True
            http.should_exit = True
            grace = catalog.limits.shutdown_seconds
            await asyncio.gather(rpc.stop(grace), asyncio.wait([answering], timeout=grace + 1))
            await catalog.close()
            log.close()
        if watching.done() and not watching.cancelled():
            watching.result()


def run(server: Coroutine[Any, Any, None]) -> None:
    """Run `serve` in a process of its own, on uvloop where it is installed."""
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # there is none for Windows
        from uvloop import new_event_loop
    # A thread that has computed waits for the event loop to let it go on: by default up to 5 ms, longer than small
    # networks take.
    sys.setswitchinterval(0.0005)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(server)


def _http_config(service: HttpService, address: Address, catalog: Catalog) -> uvicorn.Config:
    try:
        config = uvicorn.Config(
            service.application(),
            ssl_certfile=str(address.certificate) if address.certificate else None,
            ssl_keyfile=str(address.key) if address.key else None,
            ssl_keyfile_password=secrets.token_hex(),  # a key that needs one is refused; OpenSSL would ask the terminal
            http=HttpProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=round(catalog.limits.shutdown_seconds),
        )
        config.load()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--tls-certificate {address.certificate}, --tls-key {address.key}: {error}",
            "Give two files in PEM, the key without a pass phrase.",
        ) from None
    return config


async def _start_grpc(service: GrpcService, address: Address, port: int, catalog: Catalog) -> tuple[Any, int]:
    most = catalog.limits.request_bytes + _MESSAGE_SLACK
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=4 * catalog.limits.queued_requests,
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(service, server)
    wanted = address.grpc_port if address.grpc_port is not None else 0 if address.port == 0 else port + 1
    place = f"{_shown(address.host)}:{wanted}"
    try:
        if address.certificate is not None and address.key is not None:
            pair = (address.key.read_bytes(), address.certificate.read_bytes())
            bound = server.add_secure_port(place, grpc.ssl_server_credentials([pair]))
        else:
            bound = server.add_insecure_port(place)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.filename:
            raise UsageError(f"cannot read {error.filename}: {error.strerror}") from None
        raise _taken(address.host, wanted, "--grpc-port") from None
    if bound == 0:
        raise _taken(address.host, wanted, "--grpc-port")
    await server.start()
    return server, bound


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: {error}", "Give an address of this machine, such as 127.0.0.1.") from None
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where the other option would share the port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
    except (OSError, OverflowError):
        listening.close()
        raise _taken(host, port, "--port") from None
    return listening


def _taken(host: str, port: int, option: str) -> ProtosegError:
    return UsageError(
        f"cannot listen on {_shown(host)}:{port}: another program does, or this user may not",
        f"Give another {option}; 0 takes any free one.",
    )


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _stopping_on_signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set the event for the time of the block; outside the main thread nothing changes."""
    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set))
    except ValueError:
        before.clear()
    try:
        yield
    finally:
        for installed, handler in before.items():
            signal.signal(installed, handler)
