"""``protoseg load``: a server under load."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    Number,
    comma_list,
    height_and_width,
    json_option,
    note,
    print_json,
    print_table,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.benchmarking.load import LoadPoint
    from protoseg_deploy.runtimes.base import RuntimeInfo, UInt8Array
    from protoseg_deploy.server_address import ModelAddress

_MOST_IMAGES = 64
_MOST_RATE = 100_000.0


@click.command(name="load", cls=Verb, short_help="Measure a server under load.")
@click.argument("url")
@click.option("--rates", multiple=True, help="Requests per second, several with commas: 50,100,200.")
@click.option("--duration", type=Number(0.1, 86_400), default=10, show_default=True, help="Seconds at each rate.")
@click.option("--images", type=PATH, help="Folder of images, sent as they are (up to 64).  [default: random noise]")
@click.option("--size", type=height_and_width, metavar="HxW", help="Size of random images.  [default: 512x512]")
@click.option("--clients", type=click.IntRange(1, 1024), default=8, show_default=True, help="Of the closed loop.")
@click.option("--connections", type=click.IntRange(1, 1024), default=64, show_default=True, help="Of the open loop.")
@click.option("--find-knee", is_flag=True, help="Search the highest rate that the server keeps up with.")
@click.option("--plot", type=PATH, metavar="FILE", help="Picture of latency over rate, .png or .svg.")
@json_option
def command(
    url: str,
    rates: tuple[str, ...],
    duration: float,
    images: Path | None,
    size: tuple[int, int] | None,
    clients: int,
    connections: int,
    find_knee: bool,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Send requests to the model at URL and measure latency and throughput.

    Open loop: at each of --rates requests arrive at random times (a Poisson process), whether the server keeps up or
    not. Latency counts from the time at which a request was to be sent, so that a pause of the server shows in all
    requests that arrive meanwhile. Closed loop: --clients clients send the next request when they have their answer;
    its throughput is about the most that the server answers.

    Every class map is compared with the one the server gave without load; exit code 1 if one differs or a request got
    no answer. Requests are not repeated. Client and server share the processor if they run on one machine.

    \b
    protoseg load http://127.0.0.1:8000/mine --rates 50,100,200 --duration 30
    protoseg load grpc://127.0.0.1:8001/mine --images photos --find-knee --plot load.svg
    """
    from protoseg_deploy.benchmarking.load import Load
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.runtimes.remote import RemoteRuntime
    from protoseg_deploy.server_address import is_address, parse_address

    wanted = _rates(rates)
    if not is_address(url):
        raise UsageError(f"{url} is not the address of a model on a server", "For example http://127.0.0.1:8000/mine")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: the name ends with .png or .svg")
    address = parse_address(url)
    runtime = RemoteRuntime(address, tries=1)
    pictures = _pictures(runtime.info, images, size)
    load = Load(runtime.predict, pictures)
    closed = load.closed_loop(clients, duration)
    points = [load.open_loop(rate, duration, clients=connections) for rate in wanted]
    if find_knee and closed.answered_per_second:
        points += load.knee(closed, duration, clients=connections)
    knee = max((point.offered_per_second or 0.0 for point in points if point.kept_up), default=None)
    if plot is not None:
        from protoseg_deploy.benchmarking.load_plot import draw_load

        draw_load(points, closed, knee, plot, str(address))
    _report(runtime.info, closed, points, knee, as_json)
    _note_other_tools(address, pictures[0], wanted or (round(closed.answered_per_second, 1),), duration)
    if any(point.wrong or point.failed for point in (closed, *points)):
        _note_faults((closed, *points))
        click.get_current_context().exit(1)


def _rates(texts: tuple[str, ...]) -> tuple[float, ...]:
    from protoseg_deploy.errors import UsageError

    found = []
    for text in comma_list(texts):
        try:
            rate = float(text)
        except ValueError:
            rate = 0.0
        if not 0 < rate <= _MOST_RATE:
            raise UsageError(f"--rates {text}: not a number of requests per second", "For example --rates 50,100,200")
        found.append(rate)
    return tuple(found)


def _pictures(info: "RuntimeInfo", folder: Path | None, size: tuple[int, int] | None) -> "list[UInt8Array]":
    import numpy as np

    from protoseg_deploy.data.images import read_image
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.evaluation.samples import folder_samples

    if folder is None:
        height, width = size or info.fixed_size or (512, 512)
        random = np.random.default_rng(0)
        return [random.integers(0, 256, (1, height, width, 3), dtype=np.uint8) for _ in range(4)]
    if size is not None:
        raise UsageError("--size is of random images; those of --images are sent as they are")
    samples = folder_samples(folder, count=_MOST_IMAGES)
    return [read_image(sample.image, info.reading)[None] for sample in samples]


def _report(
    info: "RuntimeInfo", closed: "LoadPoint", points: "Sequence[LoadPoint]", knee: float | None, as_json: bool
) -> None:
    if as_json:
        opened = [point.to_dict() for point in points]
        facts = {"runtime": str(info.path), "digest": info.sha256, "backend": info.backend}
        print_json({**facts, "closed": closed.to_dict(), "open": opened, "knee_per_second": knee})
        return
    columns = ["load", "done/s", "p50 ms", "p95 ms", "p99 ms", "max ms", "faults", "kept up"]
    title = f"{info.path}, sha256 {info.sha256[:12]}"
    print_table(columns, [_cells(point) for point in (closed, *points)], title=title)
    if knee is not None:
        failed = [point.offered_per_second or 0.0 for point in points if not point.kept_up]
        if any(rate < 0.95 * knee for rate in failed):
            note("a lower rate was not kept up with: something else disturbs server or client; measure again.")
        click.echo(f"highest rate that the server kept up with: {knee:.1f} requests per second")


def _cells(point: "LoadPoint") -> list[str]:
    offered = point.offered_per_second
    latencies = (point.p50_ms, point.p95_ms, point.p99_ms, point.max_ms)
    return [
        f"{point.clients} clients" if offered is None else f"{offered:.1f}/s",
        f"{point.answered_per_second:.1f}",
        *(f"{latency:.1f}" for latency in latencies),
        str(point.failed + point.wrong),
        "–" if offered is None else "yes" if point.kept_up else "no",
    ]


def _note_faults(points: "Sequence[LoadPoint]") -> None:
    failed, wrong = sum(point.failed for point in points), sum(point.wrong for point in points)
    if wrong:
        note(f"{wrong} answers have another class map than without load.")
    if failed:
        errors = [error for point in points for error in point.errors]
        note(f"{failed} requests got no answer: {'; '.join(dict.fromkeys(errors))}")


def _note_other_tools(address: "ModelAddress", image: "UInt8Array", rates: "Sequence[float]", duration: float) -> None:
    """The same question to the tools of others."""
    height, width = image.shape[1:3]
    for rate in dict.fromkeys(rates):
        note(
            f"with Triton's tool: perf_analyzer -m {address.model} -i {address.protocol} -u {address.host} "
            f"--shape images:{height},{width},3 --request-rate-range {rate:g} --request-distribution poisson "
            f"--measurement-interval {round(1000 * duration)}"
        )
    note(
        f"an engine without a server: trtexec --loadEngine=FILE.engine --shapes=images:1x{height}x{width}x3 "
        f"--duration={duration:g}"
    )
