"""Arguments that several commands share, and how results are shown."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from protoseg_deploy.choices import BACKENDS, PRECISIONS, Backend, Precision
from protoseg_deploy.cli.output import fitted
from protoseg_deploy.documents import dump_document
from protoseg_deploy.exchange import settle
from protoseg_deploy.files import path_fault
from protoseg_deploy.server_address import is_address
from protoseg_deploy.text import printable
from protoseg_deploy.time_limit import DEFAULT_SECONDS, MOST_SECONDS, limit_calls

if TYPE_CHECKING:
    from protoseg_deploy.models import Windows
    from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo


def _limit_calls(context: click.Context, _option: click.Parameter, seconds: float) -> float:
    """Callback of an option: set the limit for the running time of the command."""
    before = limit_calls(seconds)
    context.call_on_close(lambda: limit_calls(before))
    return seconds


def _argument_fault(text: str) -> str | None:
    """Why an argument is no path, or None. Python takes an empty one, such as of a variable not set, for ``.``."""
    return path_fault(text) if text else "an empty path; use . for the current folder"


class _Path(click.Path):
    """Refuses what no file system can have, before anything looks for it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if fault := _argument_fault(str(value)):
            self.fail(fault, param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)


class _Location(_Path):
    """A path, or a URL such as ``s3://bucket/images``, as text: a path would lose one of its slashes."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if "://" in str(value) else super().convert(value, param, ctx)


LOCATION = _Location(path_type=str)


class Number(click.FloatRange):
    """Within bounds, and no ``nan``, which is within all of them and below no limit, and no infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
        return number


timeout_option: Callable[[Any], Any] = click.option(
    "--timeout",
    type=Number(min=0, min_open=True, max=MOST_SECONDS),
    default=DEFAULT_SECONDS,
    show_default=True,
    envvar="PROTOSEG_TIMEOUT",
    metavar="SECONDS",
    expose_value=False,
    callback=_limit_calls,
    help="Time limit for a library call, such as opening a network or predicting one batch; ten times as long for "
    "tracing a graph and building an engine. Also set by PROTOSEG_TIMEOUT.",
)
json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document, in UTF-8, instead of tables."
)
device_option: Callable[[Any], Any] = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Device. `auto` uses a GPU if there is one.",
)
precision_option: Callable[[Any], Any] = click.option(
    "--precision", type=click.Choice(PRECISIONS), help="Precision of the graph.  [default: fp32]"
)
backend_option: Callable[[Any], Any] = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="Inference backend: ONNX Runtime, its TensorRT provider, or OpenVINO.  [default: onnxruntime]",
)
take_over_option: Callable[[Any], Any] = click.option(
    "--take-over",
    is_flag=True,
    help="Take over a run that a process on another host has abandoned, without waiting for its lock to expire.",
)


@dataclass(frozen=True)
class RuntimeArgument:
    """``PATH[@PRECISION][@BACKEND]``, as it was typed and what it means."""

    text: str
    path: Path | str
    """A file or folder, or the address of a model on a server."""
    precision: "Precision | None" = None
    backend: "Backend | None" = None

    def open(
        self,
        *,
        device: str,
        which: str,
        threads: int | None = None,
        windows: "Windows | None" = None,
        cuda_graph: bool = True,
    ) -> "Runtime":
        """See `open_runtime`."""
        from protoseg_deploy.runtimes import opening

        return opening.open_runtime(
            self.path,
            device=device,
            threads=threads,
            which=which,
            precision=self.precision,
            backend=self.backend,
            windows=windows,
            cuda_graph=cuda_graph,
        )


def runtime_argument(text: str, precision: str | None, backend: str | None) -> RuntimeArgument:
    """Read ``PATH[@PRECISION][@BACKEND]``, or an address; what is not written there is as the options say.

    A path that exists as it was typed is that path, whatever it ends in.

    Raises:
        click.BadParameter: two precisions or two backends, or no such path.
    """
    if fault := _argument_fault(text):
        raise click.BadParameter(fault)
    if is_address(text):
        return RuntimeArgument(text, text, cast("Precision | None", precision), cast("Backend | None", backend))
    typed: dict[str, str] = {}
    path = text
    while not _is_there(Path(path)):
        rest, _, word = path.rpartition("@")
        name = "precision" if word in PRECISIONS else "backend" if word in BACKENDS else None
        if name is None or not rest:
            break
        if name in typed:
            raise click.BadParameter(f"{text} names two {name}s, {word} and {typed[name]}: one is enough")
        path, typed[name] = rest, word
    if not Path(path).exists() and "@" in path:
        raise click.BadParameter(
            f"no such file or folder: {path}. After an @ comes one of {', '.join((*PRECISIONS, *BACKENDS))}"
        )
    given = {"precision": precision, "backend": backend, **typed}
    return RuntimeArgument(
        text, Path(path), cast("Precision | None", given["precision"]), cast("Backend | None", given["backend"])
    )


def _is_there(path: Path) -> bool:
    """Whether a file or folder exists, once an export that was killed while it replaced the folder is settled."""
    settle(path)
    settle(path.parent)
    return path.exists()


def note_verification(info: "RuntimeInfo") -> None:
    """Warn where an artefact is unverified or failed its verification."""
    artefact = f"{info.path} ({info.precision})"
    if info.verified is False:
        note(f"{artefact} failed its verification: its class maps may not be those of the network it was made from.")
    elif info.verified is None and info.kind != "pytorch":
        note(
            f"{artefact} is unverified: `protoseg verify BUNDLE --images DIR` compares what ONNX Runtime, OpenVINO and "
            "engines make of it with the network it was made from."
        )


def note_fixed_size(info: "RuntimeInfo", tile: tuple[int, int] | None) -> None:
    """Say that images are predicted in tiles though none was asked for."""
    if info.fixed_size is not None and tile is None:
        height, width = info.fixed_size
        note(f"this artefact takes {height}x{width} only: images are predicted in tiles of that size, none is resized.")


def describe_runtime(info: "RuntimeInfo") -> dict[str, object]:
    """JSON values of what every command reports about the runtime it used."""
    return {
        "runtime": str(info.path),
        "kind": info.kind,
        "precision": info.precision,
        "device": info.device,
        "backend": info.backend,
        "verified": info.verified,
        "emulated": info.emulated or None,
    }


def height_and_width(text: str) -> tuple[int, int]:
    """An option's type: ``HxW``, or ``N`` for a square, in pixels."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{text!r} is not a size: give HEIGHTxWIDTH in pixels, e.g. 360x480, or one number")
    return int(sides[0]), int(sides[-1])


def comma_list(texts: Iterable[str]) -> list[str]:
    """The values of an option that takes a list: given several times, with commas in between, or both."""
    return list(dict.fromkeys(part.strip() for text in texts for part in text.split(",")))


def precision_list(
    _context: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> "tuple[Precision, ...]":
    """Callback of an option that may be given several times: precisions, in their usual order."""
    names = comma_list(texts)
    unknown = [name for name in names if name not in PRECISIONS]
    if unknown:
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(PRECISIONS)}")
    return tuple(precision for precision in PRECISIONS if precision in names)


@contextmanager
def progress_bar(label: str, hidden: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, if that is a terminal; the call takes (done, in all)."""
    hidden = hidden or not sys.stderr.isatty()
    with click.progressbar(length=1, label=label, file=sys.stderr, hidden=hidden) as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        yield show


def note(message: str) -> None:
    """A note on standard error; standard output is for results."""
    click.secho("Note: ", fg="yellow", bold=True, nl=False, err=True)
    click.echo(printable(message), err=True)


def recipe_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """``RECIPE [KEY=VALUE…]``."""
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    return click.argument("recipe", metavar="RECIPE")(function)


def project_at(path: Path) -> Path | None:
    """The same folder if `protoseg init` made it."""
    return path if (path / "recipe.yaml").is_file() and (path / "lists").is_dir() else None


def bundle_of(run: Path) -> str:
    """Options of `protoseg export` for a run: of a project, an int8 graph as well, in the project."""
    project = project_at(run.parent.parent) if run.parent.name == "runs" else None
    if project is None:
        return f"--bundle bundles/{run.name}"
    return f"--bundle {project / 'bundles' / run.name} --precision fp32,int8"


def print_json(document: object) -> None:
    """One document on standard output, in UTF-8 whatever the locale; see `dump_document`."""
    sys.stdout.flush()
    stream = sys.stdout.buffer
    stream.write(dump_document(document) + b"\n")
    stream.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table for people; the first column is left-aligned, the others right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title is not None:  # a title of rich's would be folded to the width of the table
        click.echo(printable(title))
    table = Table(header_style="bold")
    for number, column in enumerate(columns):
        # Names differ at their ends: they are folded, not cut.
        first = number == 0
        table.add_column(
            Text(fitted(column)), justify="left" if first else "right", overflow="fold" if first else "ellipsis"
        )
    for row in rows:
        table.add_row(*(Text(fitted(str(cell))) for cell in row))
    Console().print(table)
