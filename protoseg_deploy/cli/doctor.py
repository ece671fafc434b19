"""``protoseg doctor``: what this machine can do. Imports as little as it can: anything else may be broken."""

import json
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from protoseg_deploy import __version__
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.text import printable

if TYPE_CHECKING:
    from protoseg_deploy.diagnostics import Finding, Section

_COLORS = {"ok": "green", "missing": "cyan", "problem": "red"}
_WIDEST = 110


@click.command(name="doctor", cls=Verb, short_help="Show what this machine can do, and what it lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, in UTF-8, for bug reports.")
def command(as_json: bool) -> None:
    """Show what this machine can do, and how to add what it lacks.

    Each line is `ok`, `missing` (optional, with the command that adds it) or `problem` (there, but it does not work as
    it should). Libraries are loaded in processes of their own with a time limit, so that a broken one crashes nothing.
    ONNX Runtime's providers, GPUs and TensorRT have to compute something: being installed is not enough.

    \b
    protoseg doctor
    protoseg doctor --json > doctor.json
    protoseg doctor --json | jq '.checks[] | select(.state == "problem")'

    The report names no users, hosts or home folders, and no values of variables that may hold a secret: attach it to
    bug reports. The exit code is 1 if training or export cannot work at all, else 0.
    """
    from protoseg_deploy.diagnostics import examine, scrubber, works

    if not as_json and sys.stderr.isatty():
        click.echo("Loading every library once; this takes some seconds …", err=True)
    sections, scrub = examine(), scrubber()
    able = works(sections)
    if as_json:
        checks = [finding.as_document(section.title) for section in sections for finding in section.findings]
        _print_document(scrub.value({"protoseg": __version__, "works": able, "checks": checks}))
    else:
        width = min(_WIDEST, shutil.get_terminal_size().columns)
        for section in sections:
            _show(section, width, scrub.text)
        click.echo(_summary(sections, able))
    if not able:
        raise SystemExit(1)


def _print_document(document: Any) -> None:
    """As other commands do, but without the libraries that they need for it."""
    sys.stdout.flush()
    sys.stdout.buffer.write(json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace"))
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _show(section: "Section", width: int, scrubbed: Any) -> None:
    click.secho(f"\n{section.title}", bold=True)
    longest = max(len(finding.name) for finding in section.findings)
    for finding in section.findings:
        _show_finding(finding, min(longest, 28), width, scrubbed)


def _show_finding(finding: "Finding", longest: int, width: int, scrubbed: Any) -> None:
    indent = " " * (2 + 9 + longest + 2)
    room = max(30, width - len(indent))
    lines = textwrap.wrap(printable(scrubbed(finding.fact)), room, break_long_words=False, break_on_hyphens=False)
    click.echo("  ", nl=False)
    click.secho(f"{finding.state:9}", fg=_COLORS[finding.state], nl=False)
    click.echo(f"{finding.name:{longest}}  {lines[0] if lines else ''}")
    for line in lines[1:]:
        click.echo(f"{indent}{line}")
    if finding.fix:  # one line, to be copied
        click.secho(f"{indent}→ {printable(scrubbed(finding.fix))}", bold=True)


def _summary(sections: "Sequence[Section]", able: bool) -> str:
    counts = Counter(finding.state for section in sections for finding in section.findings)
    found = f"{_count(counts['problem'], 'problem')}, {counts['missing']} missing."
    if not able:
        return f"\n{found} Training and export do not work before the first problems are solved."
    return f"\n{found} Training and export work on this machine; what is missing is optional."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
