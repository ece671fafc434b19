"""``protoseg serve``: an inference server for bundles."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    Number,
    RuntimeArgument,
    backend_option,
    device_option,
    note,
    precision_option,
    runtime_argument,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from protoseg_deploy.serving.artefact import ArtefactSpec
    from protoseg_deploy.serving.limits import Limits
    from protoseg_deploy.serving.running import Address


@click.command(name="serve", cls=Verb, short_help="Serve bundles over HTTP and gRPC.")
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE[@PRECISION][@BACKEND]...")
@click.option("--name", "names", multiple=True, help="Name of the model, for each BUNDLE.  [default: its folder's]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port for HTTP; 0: any.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), help="Port for gRPC.  [default: one above --port]")
@click.option(
    "--token",
    envvar="PROTOSEG_TOKEN",
    help="Token that clients have to send. PROTOSEG_TOKEN keeps it out of lists of processes.",
)
@click.option("--tls-certificate", type=PATH, help="Certificate for TLS, PEM.")
@click.option("--tls-key", type=PATH, help="Private key for TLS, PEM.")
@click.option("--allow-unverified", is_flag=True, help="Serve bundles that failed their verification, or have none.")
@click.option("--instances", type=click.IntRange(1, 64), default=1, show_default=True, help="Networks of each model.")
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads of each.  [default: cores / instances]")
@click.option("--max-batch", type=click.IntRange(1, 1024), help="Images per batch.  [default: 8; on a CPU small ones]")
@click.option("--delay", type=Number(0, 1000), help="Milliseconds that a batch waits.  [default: 0 on a CPU, else 2]")
@click.option("--max-megapixels", type=Number(0, min_open=True), default=40, show_default=True, help="Of one image.")
@click.option("--max-megabytes", type=Number(0, min_open=True), default=128, show_default=True, help="Of one request.")
@click.option("--max-queue", type=click.IntRange(1, 100_000), default=64, show_default=True, help="Waiting requests.")
@click.option("--request-timeout", type=Number(0, min_open=True), default=60, show_default=True, help="Seconds.")
@click.option("--access-log", type=PATH, help="File for the access log, JSON lines.  [default: standard output]")
@click.option("--no-access-log", is_flag=True, help="Keep no access log.")
@precision_option
@backend_option
@device_option
@timeout_option
def command(
    bundles: tuple[str, ...],
    names: tuple[str, ...],
    token: str | None,
    access_log: Path | None,
    no_access_log: bool,
    precision: str | None,
    backend: str | None,
    **options: Any,
) -> None:
    """Serve BUNDLE by the Open Inference Protocol (KServe v2): HTTP, gRPC, and a page for the browser.

    Clients of Triton and KServe work unchanged. Images are uint8 [N,H,W,3], or encoded files as BYTES. Every answer is
    that of the verified artefact: its SHA-256 and its verdict are in the metadata of the model, and a bundle that is
    not verified is refused. When a bundle is exported again, the next version of its model takes over; requests that
    have begun are answered by the old one.

    SIGTERM and Ctrl-C end the server once the requests under way are answered. Needs the extra `serve`.

    \b
    protoseg serve bundles/mine
    protoseg serve bundles/mine bundles/mine@int8 --name mine --name mine-int8 --port 9000
    protoseg serve bundles/mine/engines/fp16-sm86.engine
    PROTOSEG_TOKEN=SECRET protoseg serve bundles/mine --host 0.0.0.0 --tls-certificate cert.pem --tls-key key.pem
    """
    _require_extra()
    from protoseg_deploy.serving.catalog import Catalog
    from protoseg_deploy.serving.metrics import Metrics
    from protoseg_deploy.serving.running import run, serve

    _check_token(token)
    address, limits = _address(options), _limits(options)
    specs = _specs([runtime_argument(text, precision, backend) for text in bundles], names, options)
    delay = options["delay"]
    delay_s = None if delay is None else delay / 1000
    catalog = Catalog(specs, limits, Metrics(), max_batch=options["max_batch"], delay_s=delay_s)

    def started(http: str, rpc: str) -> None:
        for model in catalog.models():
            facts = model.artefact.facts
            verdict = {True: "verified", False: "FAILED ITS VERIFICATION", None: "NOT VERIFIED"}[facts.verified]
            note(f"{model.name}: {facts.metadata.precision}, {facts.backend}, {verdict}, sha256 {facts.sha256[:12]}")
        note(f"serving on {'https' if address.key else 'http'}://{http} (gRPC {rpc}); Ctrl-C ends.")
        if not token and not address.is_local:
            note(f"without a token: everyone who reaches {address.host} can use the models.")

    logging.basicConfig(format="%(asctime)s %(levelname)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S%z")
    with _log_stream(access_log, no_access_log) as stream:
        run(serve(catalog, address, token=token or "", access_log=stream, started=started))


def _specs(
    arguments: Sequence[RuntimeArgument], names: tuple[str, ...], options: dict[str, Any]
) -> "list[ArtefactSpec]":
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.serving.artefact import NAME, ArtefactSpec, default_name

    if names and len(names) != len(arguments):
        raise UsageError(
            f"{len(names)} names for {len(arguments)} bundles", "Give --name once for each BUNDLE, or not."
        )
    if wrong := next((name for name in names if not NAME.fullmatch(name)), None):
        raise UsageError(f"--name {wrong!r}: names are letters, digits and any of - _ .", "Choose another name.")
    paths = [Path(argument.path) for argument in arguments]
    return [
        ArtefactSpec(
            path,
            name or default_name(path),
            argument.precision,
            argument.backend,
            options["device"],
            options["threads"] or _threads(options["instances"]),
            options["instances"],
            options["allow_unverified"],
        )
        for argument, path, name in zip(arguments, paths, names or [""] * len(paths), strict=True)
    ]


def _address(options: dict[str, Any]) -> "Address":
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.serving.running import Address

    certificate, key = options["tls_certificate"], options["tls_key"]
    if (certificate is None) != (key is None):
        raise UsageError("TLS needs --tls-certificate and --tls-key", "Give both, or neither.")
    return Address(options["host"], options["port"], options["grpc_port"], certificate, key)


def _check_token(token: str | None) -> None:
    """An empty one, of a variable that is not set, would open the server to everybody; others no header can carry."""
    from protoseg_deploy.errors import UsageError

    if token is None or (token and all("!" <= sign <= "~" for sign in token)):
        return
    reason = "is empty" if not token else "holds a space, a line break or a sign outside ASCII"
    raise UsageError(
        f"--token (or PROTOSEG_TOKEN) {reason}", "Give ASCII letters, digits and punctuation; or leave the option out."
    )


def _limits(options: dict[str, Any]) -> "Limits":
    from protoseg_deploy.serving.limits import Limits

    request_bytes, image_pixels = round(options["max_megabytes"] * 1e6), round(options["max_megapixels"] * 1e6)
    return Limits(
        request_bytes=request_bytes,
        image_pixels=image_pixels,
        request_pixels=2 * image_pixels,
        queued_pixels=8 * image_pixels,
        pending_bytes=8 * request_bytes,
        queued_requests=options["max_queue"],
        request_seconds=options["request_timeout"],
    )


def _threads(instances: int) -> int | None:
    if instances == 1:
        return None
    import torch

    return max(1, torch.get_num_threads() // instances)


def _require_extra() -> None:
    from protoseg_deploy.extras import require_library

    for name in ("starlette", "uvicorn", "grpc", "tritonclient.grpc", "prometheus_client"):
        require_library(name, "serve", "serve needs")


@contextmanager
def _log_stream(path: Path | None, none: bool) -> Iterator[IO[str] | None]:
    from protoseg_deploy.errors import WriteError

    if none or path is None:
        yield None if none else sys.stdout
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise WriteError(path, error) from None
    with file:
        yield file
