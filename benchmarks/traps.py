"""Five ways to measure a latency that nobody will see: the figures in docs/benchmarking.md.

    python benchmarks/traps.py BUNDLE        # with an fp32 and an fp16 graph

Each trap is measured beside the honest way, on the same machine at the same time.
"""

import io
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image

from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.load import Load
from protoseg_deploy.benchmarking.machine import describe_machine
from protoseg_deploy.cli.arguments import print_table
from protoseg_deploy.runtimes.base import Runtime, UInt8Array
from protoseg_deploy.runtimes.opening import open_runtime

SIZE, THREADS = (512, 512), 1
PHOTO = (3000, 4000)
CALLS, SECONDS = 40, 3.0
Row = tuple[str, str, str]


def first_calls(bundle: Path, images: UInt8Array) -> Row:
    """The mean of five calls from the first one on, against the median after a warm-up."""
    runtime = open_runtime(bundle, device="cpu", threads=THREADS)
    first = [_milliseconds(lambda: runtime.predict(images)) for _ in range(5)]
    settled = [_milliseconds(lambda: runtime.predict(images)) for _ in range(CALLS)]
    mean, median = statistics.fmean(first), statistics.median(settled)
    return "no warm-up: mean of the first five calls", f"{mean:.1f} ms", f"{median:.1f} ms"


def one_after_the_other(bundle: Path, images: UInt8Array) -> Row:
    """Twice the same artefact; while the second one is measured, two other programs begin."""
    pair = [open_runtime(bundle, device="cpu", threads=THREADS) for _ in range(2)]
    for runtime in pair:
        _median(runtime, images)
    first = _median(pair[0], images)
    with _busy(2):
        second = _median(pair[1], images)
        alternately = measure_interleaved(pair, images=images, seconds=SECONDS)
    honest = alternately[1].stats.p50_ms / alternately[0].stats.p50_ms
    return (
        "one after the other on a machine that gets busy: ratio of an artefact to itself",
        (f"{second / first:.2f}x"),
        f"{honest:.2f}x (alternately)",
    )


def closed_loop(_bundle: Path, images: UInt8Array) -> Row:
    """A server of 5 ms that pauses for a second, asked by one client that waits, and by clients that do not."""
    server = _PausingServer()
    load = Load(server, [images])
    points = []
    for measure in (lambda: load.closed_loop(1, 4.0), lambda: load.open_loop(100.0, 4.0)):
        pause = threading.Timer(1.5, server.pause, [1.0])
        pause.start()
        points.append(measure())
        pause.join()
    closed, opened = points
    return (
        "a client that waits while the server pauses for 1 s: p99",
        f"{closed.p99_ms:.0f} ms",
        f"{opened.p99_ms:.0f} ms",
    )


def without_decoding(bundle: Path, images: UInt8Array) -> Row:
    """Arrays in memory, against the photo of 12 megapixels that they come from."""
    noise = np.random.default_rng(0).integers(0, 256, (*(side // 8 for side in PHOTO), 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(PHOTO[::-1], Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    runtime = open_runtime(bundle, device="cpu", threads=THREADS)

    def from_file() -> None:
        with Image.open(io.BytesIO(file.getvalue())) as photo:
            pixels = np.asarray(photo.convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR))
        runtime.predict(pixels[None])

    _median(runtime, images)
    whole = statistics.median(_milliseconds(from_file) for _ in range(CALLS // 2))
    return "decoding left out: a JPEG of 12 megapixels", f"{_median(runtime, images):.1f} ms", f"{whole:.1f} ms"


def emulated_type(bundle: Path, images: UInt8Array) -> Row:
    """An fp16 graph on a CPU, which has no fp16 convolutions: its latency is not that of fp16."""
    pair = [open_runtime(bundle, device="cpu", threads=THREADS, precision=each) for each in ("fp16", "fp32")]
    fp16, fp32 = (report.stats.p50_ms for report in measure_interleaved(pair, images=images, seconds=SECONDS))
    return "a type that the device does not compute: fp16 on this CPU", f"{fp16:.1f} ms", f"fp32 {fp32:.1f} ms"


class _PausingServer:
    """Answers one request at a time in 5 ms."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __call__(self, images: UInt8Array) -> UInt8Array:
        with self._lock:
            time.sleep(0.005)
            return images[..., 0]

    def pause(self, seconds: float) -> None:
        with self._lock:
            time.sleep(seconds)


class _busy:
    """Other programs that compute while the block runs."""

    def __init__(self, programs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._programs = [context.Process(target=_spin, daemon=True) for _ in range(programs)]

    def __enter__(self) -> None:
        for program in self._programs:
            program.start()
        time.sleep(3.0)  # they import what this file does

    def __exit__(self, *_: object) -> None:
        for program in self._programs:
            program.terminate()
            program.join()


def _spin() -> None:
    while True:
        np.random.default_rng(0).normal(size=100_000).sum()


def _median(runtime: Runtime, images: UInt8Array) -> float:
    return statistics.median(_milliseconds(lambda: runtime.predict(images)) for _ in range(CALLS))


def _milliseconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
def main(bundle: Path) -> None:
    """Measure the five traps with the graphs of BUNDLE."""
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), dtype=np.uint8)
    traps = (first_calls, one_after_the_other, closed_loop, without_decoding, emulated_type)
    machine = describe_machine()
    print_table(
        ["trap", "it shows", "it is"],
        [trap(bundle, images) for trap in traps],
        f"{machine.cpu}, {SIZE[0]}x{SIZE[1]}, {THREADS} thread, {machine.date}",
    )


if __name__ == "__main__":
    main()
