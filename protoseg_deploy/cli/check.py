"""``protoseg check``: look into the data of a recipe before anything is trained on them."""

import click

from protoseg_deploy.cli.arguments import json_option, print_json, print_table, progress_bar, recipe_arguments
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.text import printable


@click.command(name="check", cls=Verb)
@recipe_arguments
@json_option
def command(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the data of RECIPE: read the files, list every fault with its file, show what the classes look like.

    Unreadable or truncated images, images without masks, differing sizes, mask values that are no class and classes
    without a labelled pixel are faults (exit code 1). What merely deserves a look is a warning, and so are unreadable
    images among the unlabelled ones while their share is within data.max_unreadable_share. Of many unlabelled images an
    evenly spaced part is decoded (2,000) or opened (20,000).

    \b
    protoseg check mine.yaml
    protoseg check camvid-mobilenetv2 data.root=/data/camvid
    protoseg check mine.yaml data.labeled_count=46 data.labeled_seed=1
    protoseg check mine.yaml --json | jq .classes
    """
    from protoseg_deploy.data import check_data, find_data
    from protoseg_deploy.errors import DataError
    from protoseg_deploy.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    try:
        sets = find_data(loaded.data, need_unlabeled=loaded.data.unlabeled.is_set, need_val=loaded.data.val.is_set)
        with progress_bar("checking", hidden=as_json) as show:
            report = check_data(loaded, sets, progress=show)
    except DataError as error:
        if as_json:
            print_json({"faults": list(error.faults) or [error.message]})
        raise DataError(error.summary, error.faults, error.hint, shown=len(error.faults)) from None
    if as_json:
        print_json(report.as_document())
        return
    drawn = f"{report.labeled.images} of {report.labeled_pool}"
    print_table(
        ["", "images", "height×width", "ignored %"],
        [
            ["labelled", drawn, report.labeled.size_text, f"{report.labeled.ignored_percent:.1f}"],
            ["unlabelled", report.unlabeled.images, report.unlabeled.size_text, "–"],
            ["validation", report.val.images, report.val.size_text, f"{report.val.ignored_percent:.1f}"],
        ],
        title="Files",
    )
    print_table(
        ["class", "labelled %", "in images", "validation %", "in images"],
        [
            [f"{index} {name}", *report.labeled.class_cells(index), *report.val.class_cells(index)]
            for index, name in enumerate(report.classes.names)
        ],
        title="Classes, share of the pixels that are not ignored",
    )
    for warning in report.warnings:
        click.secho("Warning: ", fg="yellow", bold=True, nl=False)
        click.echo(printable(warning))
    click.echo("No faults found.")
