"""Throughput of `protoseg serve` and of a real Triton server, with the same bundle on the same machine in one run.

Both servers run ONNX Runtime on the CPU with the same number of instances and threads; Triton runs it in its Python
backend. Clients are a process of their own with one thread and one connection each, in a closed loop: the next request
goes out when the answer is there. They share the machine with the servers, so that figures are of server and clients
together. Rounds alternate between the servers. Every answer is compared with the class map of the bundle in this
process; one differing pixel ends the benchmark.

    python -m benchmarks.serving_throughput bundles/mine --images val/images --clients 1,8,16 --seconds 5 --rounds 3
"""

import json
import multiprocessing
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from protoseg_deploy.benchmarking.machine import describe_machine
from protoseg_deploy.cli import cli
from protoseg_deploy.cli.arguments import PATH, print_table
from protoseg_deploy.data.images import read_image
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from tests.serving.embedded import embedded_server
from tests.serving.triton.server import triton_server


@dataclass(frozen=True)
class Load:
    """What clients send, and to whom."""

    place: str
    protocol: str
    model: str
    clients: int
    seconds: float
    images: list[np.ndarray]
    expected: list[np.ndarray]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("bundle", type=PATH)
@click.option("--images", type=PATH, required=True, help="Folder of images.")
@click.option("--precision", default="fp32", show_default=True)
@click.option("--clients", default="1,8,16", show_default=True, help="Numbers of clients.")
@click.option("--protocols", default="http,grpc", show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Length of a round.")
@click.option("--rounds", type=int, default=3, show_default=True)
@click.option("--instances", type=int, default=2, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True, help="Of each instance.")
def main(bundle: Path, images: Path, precision: str, rounds: int, **options: Any) -> None:
    """Measure and print a table; the last line is JSON."""
    pictures = [read_image(path) for path in sorted(images.iterdir()) if path.suffix in (".png", ".jpg")][:64]
    runtime = OnnxRuntime(bundle, device="cpu", precision=precision)  # type: ignore[arg-type]
    expected = [runtime.predict(picture[None]) for picture in pictures]
    rows: list[dict[str, Any]] = []
    with _servers(bundle, precision, options["instances"], options["threads"]) as servers:
        for protocol in options["protocols"].split(","):
            for clients in map(int, options["clients"].split(",")):
                found: dict[str, list[tuple[float, float]]] = {name: [] for name in servers}
                for _ in range(rounds):
                    for name, places in servers.items():
                        load = Load(places[protocol], protocol, "mine", clients, options["seconds"], pictures, expected)
                        found[name].append(_measure(load))
                rows.append({"protocol": protocol, "clients": clients, **_summary(found)})
    print_table(
        ["protocol", "clients", "serve images/s", "Triton images/s", "ratio", "serve p50 ms", "Triton p50 ms"],
        [
            (
                row["protocol"],
                row["clients"],
                *(f"{row[key]:.0f}" for key in ("serve", "triton")),
                f"{row['serve'] / row['triton']:.2f}",
                *(f"{row[key]:.2f}" for key in ("serve_p50_ms", "triton_p50_ms")),
            )
            for row in rows
        ],
    )
    machine = describe_machine()
    document = {"bundle": str(bundle), "precision": precision, "cpu": machine.cpu, "images": len(pictures), **options}
    click.echo(json.dumps({**document, "rows": rows}))


@contextmanager
def _servers(bundle: Path, precision: str, instances: int, threads: int) -> Iterator[dict[str, dict[str, str]]]:
    shared = ("--instances", str(instances), "--threads", str(threads))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(
            embedded_server(f"{bundle}@{precision}", options=("--name", "mine", "--no-access-log", *shared))
        )
        words = ["serve-repo", f"{bundle}@{precision}", "--name", "mine", "--out", str(folder / "repository")]
        cli.main([*words, "--backend", "python", *shared], standalone_mode=False)
        theirs = stack.enter_context(triton_server(folder / "repository", folder / "log.txt"))
        yield {
            "serve": {"http": ours.http, "grpc": ours.grpc},
            "triton": {"http": theirs.http, "grpc": theirs.grpc},
        }


def _measure(load: Load) -> tuple[float, float]:
    """Images per second, and median latency in ms."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_clients, args=(load, queue))
    process.start()
    seconds, latencies, wrong = queue.get(timeout=load.seconds + 120)
    process.join()
    if wrong:
        raise click.ClickException(f"{load.place}: {wrong} answers differ from the bundle's")
    return len(latencies) / seconds, 1000 * statistics.median(latencies)


def _clients(load: Load, queue: Any) -> None:
    import tritonclient.grpc
    import tritonclient.http

    library = tritonclient.http if load.protocol == "http" else tritonclient.grpc
    ready = threading.Barrier(load.clients + 1)
    latencies: list[float] = []
    wrong: list[int] = []

    def client_of(number: int) -> None:
        with library.InferenceServerClient(load.place) as client:
            mine = number
            ready.wait()
            end = time.perf_counter() + load.seconds
            while (sent := time.perf_counter()) < end:
                image = load.images[mine % len(load.images)][None]
                tensor = library.InferInput("images", list(image.shape), "UINT8")
                tensor.set_data_from_numpy(image)
                answer = client.infer("mine", [tensor], outputs=[library.InferRequestedOutput("class_map")])
                found = answer.as_numpy("class_map")
                latencies.append(time.perf_counter() - sent)
                if not np.array_equal(found, load.expected[mine % len(load.images)]):
                    wrong.append(mine)
                mine += load.clients

    threads = [threading.Thread(target=client_of, args=(number,)) for number in range(load.clients)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    queue.put((time.perf_counter() - began, latencies, len(wrong)))


def _summary(found: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Medians over the rounds."""
    rates = {name: statistics.median(rate for rate, _ in rounds) for name, rounds in found.items()}
    latencies = {f"{name}_p50_ms": statistics.median(p50 for _, p50 in rounds) for name, rounds in found.items()}
    return rates | latencies


if __name__ == "__main__":
    main()
