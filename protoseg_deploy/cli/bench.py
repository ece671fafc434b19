"""``protoseg bench``: latency, accuracy and memory of runs, bundles, ONNX files and engines."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    Number,
    backend_option,
    device_option,
    height_and_width,
    json_option,
    precision_option,
    print_json,
    runtime_argument,
    timeout_option,
)
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.cli.arguments import RuntimeArgument
    from protoseg_deploy.cli.bench_card import Row
    from protoseg_deploy.cli.bench_measuring import Opened

_THREADS_PER_CORE = 8


def _as_many_as_help(_context: click.Context, _option: click.Parameter, threads: int | None) -> int | None:
    """Callback: threads that wait for each other by spinning make a call take minutes where they are many more."""
    cores = os.cpu_count() or 1
    if threads is not None and threads > _THREADS_PER_CORE * cores:
        raise click.BadParameter(f"{threads} threads are too many for {cores} cores; at most {_THREADS_PER_CORE} each")
    return threads


class _Percent(Number):
    """A number with or without a percent sign."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(value.removesuffix("%") if isinstance(value, str) else value, param, ctx)


@click.command(name="bench", cls=Verb, short_help="Measure the latency of runtimes.")
@click.argument("runtime_texts", nargs=-1, metavar="[RUNTIME[@PRECISION][@BACKEND]]...")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Images per call.")
@click.option(
    "--size",
    type=height_and_width,
    metavar="HxW",
    help="Height and width of the images.  [default: the artefact's fixed size, that of --images, or 512x512]",
)
@click.option("--images", type=PATH, help="Folder of images to use, resized to --size.  [default: random noise]")
@click.option("--masks", type=PATH, help="Masks of --images: measures the mIoU of each RUNTIME as well.")
@click.option("--mask-template", default="{stem}.png", show_default=True, help="Path of a mask below --masks.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=_as_many_as_help,
    help="CPU threads.  [default: the library's choice]",
)
@click.option(
    "--runs",
    type=click.IntRange(min=1, max=10_000_000),
    help="Least number of timed calls of each RUNTIME.  [default: 20]",
)
@click.option(
    "--seconds",
    type=Number(0, 86_400),
    help="Least time for each RUNTIME.  [default: 5, or 0 with --runs]",
)
@click.option("--energy", is_flag=True, help="Measure joules per image as well, and the idle power.")
@click.option(
    "--sweep",
    multiple=True,
    metavar="KEY=A,B...",
    help="Measure all combinations of batch=1,2,4 size=256,512 threads=1,2 cuda_graph=on,off",
)
@click.option("--no-cuda-graph", is_flag=True, help="TensorRT engines: launch kernel by kernel.")
@click.option("--strict", is_flag=True, help="Exit with 3 if a latency is not steady.")
@click.option("--compare", type=PATH, metavar="OLD.json", help="Exit with 1 if slower than in this output of --json.")
@click.option("--max-slowdown", type=_Percent(0), metavar="PERCENT", help="Allowed by --compare.  [default: 10%]")
@click.option(
    "--read", type=PATH, multiple=True, metavar="FILE", help="Output of --json to show in the same table; repeatable."
)
@click.option("--plot", type=PATH, metavar="FILE", help="Picture of mIoU over latency, .png or .svg.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the table that compares the RUNTIMEs as CSV.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table that compares the RUNTIMEs as Markdown.")
@click.option("--last", is_flag=True, help="For a run: use the last network, not the best one.")
@precision_option
@backend_option
@device_option
@timeout_option
@json_option
def command(
    runtime_texts: tuple[str, ...],
    size: tuple[int, int] | None,
    images: Path | None,
    precision: str | None,
    backend: str | None,
    as_markdown: bool,
    as_csv: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure the latency of RUNTIME, after a warm-up until the latency is stable; with --masks also its accuracy.

    Latencies are reported between boundaries, each of which holds the one before. `engine` is the computation alone,
    with normalisation, resizing, upsampling and argmax, as they are part of the graph; `copies` adds those to the
    device and back; `arrays` is what a program waits for: from uint8 images in memory to uint8 class maps in memory.
    Of a server, `request` is from the client and back. With --images, `file` adds reading and decoding. Loading and
    the first call stand apart. Images per second are computed from the mean of `arrays` or `request`.

    A latency that is not steady is flagged, and images per second are withheld: the warm-up did not stabilise, it
    varies by more than 10 % or drifts by more than 5 %, other programs used the processor, or there were few runs.

    RUNTIME is a run folder, a bundle folder, an .onnx or .engine file, or a model on a server:
    http://HOST:PORT/MODEL or grpc://HOST:PORT/MODEL. For a bundle, @ selects a precision and a backend:
    bundles/mine@int8, bundles/mine@bf16@openvino; --precision and --backend apply to every RUNTIME without an @.
    Several RUNTIMEs are measured alternately, so that their ratios are valid on a noisy machine. Peak memory is
    that of this process since it started, including libraries and all RUNTIMEs.

    \b
    protoseg bench bundles/mine --size 360x480
    protoseg bench bundles/mine bundles/mine@int8 bundles/mine@bf16@openvino --size 512 --threads 2
    protoseg bench bundles/mine bundles/mine@int8 --images val/images --masks val/masks
    protoseg bench bundles/mine bundles/mine@int8 --sweep batch=1,2,4,8 threads=1,2 --plot sweep.png
    protoseg bench bundles/mine --images photos --batch 8 --json > before.json
    protoseg bench bundles/mine --images photos --batch 8 --compare before.json --max-slowdown 15%
    """
    from protoseg_deploy.benchmarking.regression import changes_since, require_counterparts
    from protoseg_deploy.benchmarking.rows import read_rows
    from protoseg_deploy.cli import bench_output as output
    from protoseg_deploy.cli.bench_measuring import is_sweep, known_before, sweep_points

    sweep = (*options["sweep"], *(text for text in runtime_texts if options["sweep"] and is_sweep(text)))
    runtime_texts = tuple(text for text in runtime_texts if text not in sweep)
    points = sweep_points(sweep)
    compare, forms = options["compare"], (as_json, as_markdown, as_csv)
    _check(runtime_texts, images, forms, len(points) > 1, options)
    _require_said_once(points[0])
    shown = [row for file in options["read"] for row in read_rows(file, "--read")]
    earlier = () if compare is None else read_rows(compare, "--compare")
    if compare is not None:
        common = {"size": size, "batch": options["batch"], "threads": options["threads"]}
        require_counterparts(earlier, known_before(runtime_texts, points, common), compare)
    arguments = [runtime_argument(text, precision, backend) for text in runtime_texts]
    rows = _measured(arguments, points, images, size, any(forms), options) if arguments else []
    output.note_unsteady(rows)
    output.note_requests(rows)
    allowed = 10.0 if options["max_slowdown"] is None else options["max_slowdown"]
    changes = [] if compare is None else changes_since(earlier, [row.measured() for row in rows], allowed, compare)
    if as_json:
        print_json(output.document(rows, changes))
    elif as_markdown:
        click.echo(output.markdown(rows, shown), nl=False)
    elif as_csv:
        click.echo(output.csv_text(rows, shown), nl=False)
    else:
        output.print_cards(rows, shown)
    if options["plot"] is not None:
        output.plot(rows, shown, options["plot"])
    output.note_changes(changes, allowed)
    if any(change.slower for change in changes):
        click.get_current_context().exit(1)
    if options["strict"] and not all(row.steady for row in (*shown, *(row.measured() for row in rows))):
        click.get_current_context().exit(3)


def _measured(
    arguments: "Sequence[RuntimeArgument]",
    points: "Sequence[dict[str, Any]]",
    images: Path | None,
    size: tuple[int, int] | None,
    quiet: bool,
    options: dict[str, Any],
) -> "list[Row]":
    """Latency of each runtime under each combination of conditions, with its accuracy."""
    from protoseg_deploy.cli.bench_measuring import judged, judging_samples, measured, opened
    from protoseg_deploy.cli.bench_output import note_doubts

    samples = judging_samples(images, options["masks"], options["mask_template"])
    length = {name: options[name] for name in ("runs", "seconds", "energy")}
    rows: list[Row] = []
    for number, point in enumerate(points):
        wanted = {"size": size, "batch": options["batch"], "threads": options["threads"], **point}
        how = {"threads": wanted.pop("threads"), "cuda_graph": wanted.pop("cuda_graph", not options["no_cuda_graph"])}
        which = "last" if options["last"] else "best"
        every = [opened(argument, device=options["device"], which=which, **how) for argument in arguments]
        if number == 0:
            note_doubts([one.text for one in every], [one.runtime for one in every])
        _check_cuda_graph(every, options["no_cuda_graph"] or "cuda_graph" in point)
        found = measured(every, images, **wanted, **length)
        if number == 0:  # after the first call, which is timed
            accuracies = judged([one.runtime for one in every], samples, quiet=quiet)
        rows += [replace(row, accuracy=accuracy) for row, accuracy in zip(found, accuracies, strict=True)]
    return rows


def _check_cuda_graph(every: "Sequence[Opened]", asked: bool) -> None:
    """Raises UsageError where a CUDA graph is asked for or refused and nothing has one."""
    from protoseg_deploy.errors import UsageError

    if asked and all(one.runtime.info.cuda_graph is None for one in every):
        raise UsageError("no RUNTIME launches from a CUDA graph", "TensorRT engines (`protoseg build`) do.")


def _require_said_once(point: "dict[str, Any]") -> None:
    """Raises UsageError where an option says what a sweep varies."""
    from protoseg_deploy.errors import UsageError

    context = click.get_current_context()
    for key in point:
        option = "no_cuda_graph" if key == "cuda_graph" else key
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{option.replace('_', '-')} and --sweep {key}=… say the same thing: give one of them")


def _check(
    texts: "Sequence[str]",
    images: Path | None,
    forms: "Sequence[bool]",
    sweeps: bool,
    options: dict[str, Any],
) -> None:
    """Raises UsageError for options that do not go together, before anything is measured."""
    from protoseg_deploy.errors import UsageError

    masks, plot, read, compare = (options[name] for name in ("masks", "plot", "read", "compare"))
    if sum(forms) > 1:
        raise UsageError("--json, --markdown and --csv print one thing each: give one of them")
    if masks is not None and images is None:
        raise UsageError("--masks goes with --images: the images they belong to")
    if compare is None and options["max_slowdown"] is not None:
        raise UsageError("--max-slowdown goes with --compare: what to compare with")
    if read and forms[0]:
        raise UsageError("--read shows a table: it does not go with --json")
    if not texts and (not read or compare is not None):
        raise UsageError("nothing to measure: no RUNTIME is named", "With --read alone, a table is shown.")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise UsageError(f"--plot {plot}: the name ends with .png or .svg")
    if plot is not None and masks is None and not sweeps and not read:
        raise UsageError(
            "--plot shows mIoU over latency: no row has an mIoU", "Give --images and --masks, or a --sweep."
        )
