"""``protoseg kit``: what is copied beside a bundle, out of the package."""

from pathlib import Path

import click

from protoseg_deploy.cli.arguments import PATH
from protoseg_deploy.cli.verb import Verb


@click.command(name="kit", cls=Verb, short_help="Copy a kit that runs bundles without protoseg.")
@click.argument("name", required=False)
@click.option("--out", type=PATH, help="Folder for the kit: a new or an empty one.")
def command(name: str | None, out: Path | None) -> None:
    """Copy the deployment kit NAME into a folder; without NAME, list the kits.

    A kit is what runs a bundle where protoseg and PyTorch are not installed. Nothing is overwritten.

    \b
    protoseg kit
    protoseg kit runner --out runner
    """
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.recipe import copy_kit, shipped_kits

    if name is None:
        if out is not None:
            raise UsageError("--out without the name of a kit", f"Kits: {', '.join(shipped_kits())}.")
        kits = shipped_kits()
        width = max(len(kit) for kit in kits)
        for kit, summary in kits.items():
            click.echo(f"{kit:<{width}}  {summary}")
        return
    if out is None:
        raise UsageError("--out is missing", f"protoseg kit {name} --out {name}")
    files = copy_kit(name, out)
    click.echo(f"{len(files)} files in {out}; {out / 'README.md'} says how to use them")
