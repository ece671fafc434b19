"""``protoseg check``: check the data of a recipe before training."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import json_option, print_json, print_table, progress_bar, recipe_arguments
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.text import printable

if TYPE_CHECKING:
    from protoseg_deploy.data import DataReport

_MOST_PAIRS = 10


@click.command(name="check", cls=Verb, short_help="Check the data of a recipe before training.")
@recipe_arguments
@json_option
def command(recipe: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the data of RECIPE: read the files, list every error with its file, show the class distribution.

    A network that cannot be built, or not be exported after training, is refused first. Errors (exit code 1) are
    unreadable or truncated images, images without masks, masks of a different size, mask values that are not a
    class, contradictory palettes and, with the prototype branch, classes without a labelled pixel. Warnings are
    files that are not read, masks in which 255 may be foreground, images that use little of their value range, and
    unreadable unlabelled images up to a share of data.max_unreadable_share. From a large unlabelled pool, 2,000
    evenly spaced images are decoded, and the headers of 20,000 are read. Validation images that show the same scene
    as one that is trained on (next frames, crops, mirrored or brightened copies) are named with their twins; for this
    up to 20,000 unlabelled images are decoded once and remembered.

    \b
    protoseg check mine.yaml
    protoseg check camvid-mobilenetv2 data.root=/data/camvid
    protoseg check mine.yaml data.labeled_count=46 data.labeled_seed=1
    protoseg check mine.yaml --json | jq .classes
    """
    from dataclasses import replace

    from protoseg_deploy.data import examine_data, find_data
    from protoseg_deploy.data.leaks import shared_scenes, warnings_of_scenes
    from protoseg_deploy.errors import DataError
    from protoseg_deploy.models import require_deployable
    from protoseg_deploy.recipe import load_recipe

    data = (loaded := load_recipe(recipe, overrides)).data
    require_deployable(loaded.model)
    faults = _missing_weights(loaded.model.weights)
    try:
        sets = find_data(data, need_unlabeled=data.unlabeled.is_set, need_val=data.val.is_set, faults=faults)
    except DataError as error:
        if as_json:
            print_json({"faults": list(error.faults) or [error.message]})
        raise
    with progress_bar("checking", hidden=as_json) as show:
        report = examine_data(loaded, sets, progress=show, faults=faults)
    with progress_bar("comparing", hidden=as_json) as show:
        scenes = shared_scenes(sets, data, show)
    report = replace(report, scenes=scenes, warnings=(*report.warnings, *warnings_of_scenes(scenes)))
    if as_json:
        print_json(report.as_document())
    else:
        _show(report, Path(data.root).expanduser().absolute())
    if report.faults:
        raise report.error(shown=len(report.faults))
    if not as_json:
        click.echo("No errors found.")


def _missing_weights(weights: str) -> list[str]:
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.models.weights import require_weights_file

    if weights in ("pretrained", "none"):
        return []
    try:
        require_weights_file(Path(weights).expanduser())
    except UsageError as error:
        return [f"{error.message}. {error.hint}"]
    return []


def _show(report: "DataReport", root: Path) -> None:
    from protoseg_deploy.data.paths import name_below

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
    if report.scenes:
        print_table(
            ["validation image", "alike", "resemblance"],
            [
                [name_below(scene.validation, root), name_below(scene.trained, root), f"{scene.resemblance:.2f}"]
                for scene in report.scenes[:_MOST_PAIRS]
            ],
            title="Validation images that show a scene which is trained on",
        )
    for warning in report.warnings:
        click.secho("Warning: ", fg="yellow", bold=True, nl=False)
        click.echo(printable(warning))
