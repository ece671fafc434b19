"""``protoseg init``: a project from a folder of photographs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table, progress_bar
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.text import printable

if TYPE_CHECKING:
    from protoseg_deploy.projects.making import Project


@click.command(name="init", cls=Verb, short_help="Make a project from a folder of images and masks.")
@click.argument("images", nargs=-1, required=True, metavar="IMAGES...", type=PATH)
@click.option("--masks", type=PATH, help="Folder of masks, or file of annotations.  [default: found by their names]")
@click.option("--out", "--project", type=PATH, required=True, help="The project: a new or an empty folder.")
@click.option("--classes", type=PATH, help="File of class names.  [default: found beside the masks]")
@click.option("--weights", type=PATH, help="Pretrained weights of a timm model (.safetensors, .pth).")
@click.option("--backbone", metavar="NAME", help="timm model.  [default: the one whose weights are at hand]")
@click.option("--labeled", type=click.IntRange(min=1), help="Labelled images to train with.  [default: all but --val]")
@click.option("--val", type=click.IntRange(min=1), help="Validation images.  [default: a fifth of those with masks]")
@click.option("--group-by", metavar="REGEX|folder|time", help="Images that stay together, see `protoseg split`.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
@click.option("--copy", is_flag=True, help="Copy images and masks into the project.")
@json_option
def command(
    images: tuple[Path, ...],
    masks: Path | None,
    out: Path,
    classes: Path | None,
    weights: Path | None,
    backbone: str | None,
    labeled: int | None,
    val: int | None,
    group_by: str | None,
    seed: int,
    copy: bool,
    as_json: bool,
) -> None:
    """Look at IMAGES, folders or files, and write a project to train from.

    Found out are: which images have masks, what the values or colours of the masks are, bands and depth of the images,
    which images show the same scene, how many there are to learn from, and what fits into this machine, by trying.
    Written are `recipe.yaml`, with the reason beside every value, `classes.json`, the lists of images (see `protoseg
    split`) and `NEXT.md` with the commands. Annotations of COCO, CVAT, Label Studio and others (see `protoseg convert`)
    become masks in the project. Nothing is copied unless asked: the lists name files where they are.

    \b
    protoseg init photos --out project
    protoseg init photos --masks masks --out project --weights mobilenetv2_100.safetensors
    protoseg init photos --masks instances.json --out project
    protoseg train project
    """
    from protoseg_deploy.cli.split import checked_grouping
    from protoseg_deploy.projects.making import Wishes, make_project

    wishes = Wishes(masks, classes, weights, backbone, labeled, val, checked_grouping(group_by), seed, copy)

    def stage(what: str) -> None:
        click.echo(f"{what} …", err=True)

    with progress_bar("reading", hidden=as_json) as progress:
        project = make_project(images, out, wishes, stage=stage, progress=progress)
    if as_json:
        print_json(
            {
                "project": str(out),
                "classes": list(project.naming.names),
                "choices": {each.key: {"value": each.value, "reason": each.reason} for each in project.choices},
                "training_minutes": project.training_minutes,
                **project.division.to_dict(),
                "remarks": list(project.remarks),
            }
        )
    else:
        _show(project)


def _show(project: "Project") -> None:
    parts = project.division.parts()
    print_table(["", "images", "scenes"], [[name, part.images, part.groups] for name, part in parts.items()])
    names = project.naming.names
    click.echo(printable(f"{len(names)} classes: {', '.join(names)} ({project.naming.reason})"))
    shown = (
        "model.backbone",
        "method.name",
        "data.input_scale",
        "train.crop",
        "train.batch_labeled",
        "train.precision",
    )
    print_table(
        ["chosen", "value", "because"],
        [[each.key, each.value, each.reason] for each in project.choices if each.key in shown],
    )
    for remark in project.remarks:
        click.secho("Warning: ", fg="yellow", bold=True, nl=False)
        click.echo(printable(remark))
    minutes = project.training_minutes
    about = f" (about {max(1, round(minutes))} minutes)" if minutes is not None else ""
    click.echo(f"{project.folder / 'recipe.yaml'} says why each value was chosen.")
    click.echo(f"Next: protoseg train {project.folder}{about}")
