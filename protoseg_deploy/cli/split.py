"""``protoseg split``: divide images into training and validation lists."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table, progress_bar
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from protoseg_deploy.projects.dividing import Division


def checked_grouping(text: str | None) -> str | None:
    """What --group-by says.

    Raises:
        UsageError: it is no regular expression with one group.
    """
    from protoseg_deploy.errors import UsageError

    if text is None or text in ("folder", "time"):
        return text
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise UsageError(f"--group-by {text}: no regular expression: {error}") from None
    if groups != 1:
        raise UsageError(
            f"--group-by {text}: {groups} groups in parentheses instead of one", "For example '([^_]+)_.*'."
        )
    return text


@click.command(name="split", cls=Verb, short_help="Divide images into training and validation lists.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...", type=PATH)
@click.option("--masks", type=PATH, help="Folder of masks.  [default: found by their names]")
@click.option("--out", type=PATH, required=True, help="Folder for the lists.")
@click.option(
    "--labeled", type=click.IntRange(min=1), help="Labelled images to train with.  [default: all that remain]"
)
@click.option("--val", type=click.IntRange(min=1), help="Validation images.  [default: a fifth, at least 1]")
@click.option(
    "--group-by",
    metavar="REGEX|folder|time",
    help="Images that stay together: by a group in the file name, by folder, or taken within 60 s.",
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@json_option
def command(
    images: tuple[Path, ...],
    masks: Path | None,
    out: Path,
    labeled: int | None,
    val: int | None,
    group_by: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Divide the images with masks in IMAGES into lists for training and validation.

    Every class is in both lists, as far as possible, and in equal shares. Images of one scene (near-duplicates: copies,
    crops, next frames of a video, mirrored or turned ones) and of one group (--group-by) are never in both; unlabelled
    images that show a scene of the validation images are listed apart. Nothing is copied: the lists name files where
    they are. Masks hold class indices or colours.

    \b
    protoseg split photos --masks masks --out lists
    protoseg split photos --masks masks --out lists --labeled 20 --val 30 --seed 1
    protoseg split frames --out lists --group-by '([^_]+)_.*'
    """
    from protoseg_deploy.projects.dividing import divide, write_lists
    from protoseg_deploy.projects.pairing import find_pairs

    group_by = checked_grouping(group_by)
    pairs = find_pairs(images, masks)
    with progress_bar("reading", hidden=as_json) as progress:
        division = divide(pairs, labeled=labeled, val=val, group_by=group_by, seed=seed, progress=progress)
    written = write_lists(division, out)
    if as_json:
        print_json(division.to_dict() | {"files": [str(file) for file in written]})
        return
    _show(division, out)


def _show(division: "Division", out: Path) -> None:
    click.echo(f"Masks: {division.pairs.how}")
    print_table(
        ["", "images", "scenes"],
        [[name, part.images, part.groups] for name, part in division.parts().items()],
        title=f"Lists in {out}",
    )
    shares = division.class_shares()
    print_table(
        ["value in masks", "training %", "in images", "validation %", "in images"],
        [[share.name, *share.cells()] for share in shares],
        title="Classes, share of the pixels",
    )
    for line in division.remarks():
        click.secho("Warning: ", fg="yellow", bold=True, nl=False)
        click.echo(line)
    click.echo("data:")
    for line in division.recipe_lines(out):
        click.echo(f"  {line}")
