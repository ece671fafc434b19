"""Arguments that several verbs share, and how results are shown."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

PATH = click.Path(path_type=Path)

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of tables."
)
device_option: Callable[[Any], Any] = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute. `auto` takes a GPU if there is one.",
)


def height_and_width(text: str) -> tuple[int, int]:
    """An option's type: ``HxW``, or ``N`` for a square, in pixels."""
    sides = text.lower().replace("×", "x").split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{text!r} is no size: give HEIGHTxWIDTH in pixels, e.g. 360x480, or one number")
    return int(sides[0]), int(sides[-1])


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
    """Something worth knowing, on standard error: standard output belongs to results."""
    click.secho("Note: ", fg="yellow", bold=True, nl=False, err=True)
    click.echo(message, err=True)


def recipe_arguments(function: Callable[..., Any]) -> Callable[..., Any]:
    """``RECIPE [KEY=VALUE…]``."""
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    return click.argument("recipe", metavar="RECIPE")(function)


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """A table for people; the first column is left-aligned, the others right."""
    from rich.console import Console
    from rich.table import Table

    if title is not None:  # a title of rich's would be folded to the width of the table
        click.echo(title)
    table = Table(header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)
