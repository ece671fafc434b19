"""``protoseg suggest``: which images to label next."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import PATH, json_option, note, print_json, print_table, progress_bar
from protoseg_deploy.cli.verb import Verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.run_folder import RunFolder


@click.command(name="suggest", cls=Verb, short_help="Choose images that are worth labelling next.")
@click.argument("source", metavar="RUN|BACKBONE")
@click.option("--images", type=PATH, required=True, help="Folder to choose from, searched recursively.")
@click.option("--count", type=click.IntRange(min=1), required=True, help="How many images.")
@click.option("--out", type=PATH, required=True, help="Folder for the list and the contact sheet.")
@click.option("--labeled", type=PATH, help="List of images that are labelled.  [default: those of RUN]")
@click.option("--weights", type=PATH, help="Weights of BACKBONE (.safetensors, .pth).  [default: fetched]")
@click.option("--at-most", type=click.IntRange(min=1), default=5000, show_default=True, help="Images to look at.")
@json_option
def command(
    source: str,
    images: Path,
    count: int,
    out: Path,
    labeled: Path | None,
    weights: Path | None,
    at_most: int,
    as_json: bool,
) -> None:
    """Choose images from a folder that are worth labelling next.

    One image after the other is chosen that is far, in the features of the network, from all that are labelled or were
    chosen before (k-center); with RUN also one of whose pixels the network is unsure, or that lie far from all
    prototypes. Training and validation images of RUN count as labelled. With the name of a timm BACKBONE, nothing
    needs to be trained. Of more than --at-most images, evenly spaced ones are looked at.

    Written are `images.txt`, a list as recipes read it, `suggestions.json` and `contact-sheet.jpg`.

    \b
    protoseg suggest runs/mine --images photos --count 20 --out next
    protoseg suggest mobilenetv2_100 --images photos --count 20 --out first
    protoseg suggest resnet50 --images photos --count 20 --out next --labeled lists/labeled.txt
    """
    from protoseg_deploy.data import Sample, write_list
    from protoseg_deploy.data.finding import find_images, looked_for
    from protoseg_deploy.data.paths import is_folder
    from protoseg_deploy.documents import dump_document
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.files import resolved, write_atomically
    from protoseg_deploy.projects.contact_sheet import write_contact_sheet
    from protoseg_deploy.projects.suggesting import describe_all, describer_of, suggest

    if not is_folder(images):
        raise UsageError(f"--images: no such folder: {images}")
    describer, run = describer_of(source, weights)
    found = [path.absolute() for path in find_images(images, leave_out=[], key="--images", faults=[])]
    known = _labeled(labeled, run)
    labeled_files = {resolved(path) for path in known}
    free = [path for path in found if resolved(path) not in labeled_files]
    if not free:
        what = "all are labelled" if found else looked_for(images)
        raise UsageError(f"--images {images}: nothing to choose from: {what}")
    looked_at = free[:: -(-len(free) // at_most)]
    if len(looked_at) < len(free):
        note(f"{len(looked_at)} of {len(free)} images are looked at; --at-most changes that.")
    with progress_bar("looking", hidden=as_json) as progress:
        _, labeled_described, _ = describe_all(describer, known[:: -(-len(known) // at_most)] if known else [])
        readable, described, faults = describe_all(describer, looked_at, progress)
    for fault in faults:
        note(fault)
    chosen = suggest(readable, described, labeled_described, count)
    write_list(out / "images.txt", [Sample(each.image, None) for each in chosen], images)
    write_atomically(out / "suggestions.json", dump_document([each.to_dict() for each in chosen]) + b"\n")
    captions = [f"distance {each.distance:.2f}  unsure {each.uncertainty:.2f}" for each in chosen]
    write_contact_sheet(out / "contact-sheet.jpg", [each.image for each in chosen], captions, describer.reading)
    if as_json:
        print_json([each.to_dict() for each in chosen])
        return
    print_table(
        ["image", "distance", "uncertainty", "novelty"],
        [
            [each.image.name, f"{each.distance:.3f}", f"{each.uncertainty:.3f}", f"{each.novelty:.3f}"]
            for each in chosen
        ],
        title=f"From {len(readable)} images, beside {len(labeled_described)} that are labelled",
    )
    click.echo(f"Look at {out / 'contact-sheet.jpg'}; {out / 'images.txt'} lists them.")


def _labeled(listed: Path | None, run: "RunFolder | None") -> "Sequence[Path]":
    """Images that are labelled: of a list, or of a run with those it was validated on."""
    from protoseg_deploy.data import find_data
    from protoseg_deploy.data.lists import ListReader
    from protoseg_deploy.errors import DataError

    if listed is not None:
        faults: list[str] = []
        reader = ListReader(Path.cwd(), str(listed.absolute()), "--labeled", faults)
        paths = [image for image, _ in reader.pairs(None, None, need_masks=False)]
        if faults:
            raise DataError(f"--labeled {listed} cannot be used", faults)
        return paths
    if run is None:
        return []
    drawn = run.labeled_list if run.labeled_list.is_file() else None
    sets = find_data(run.recipe().data, need_unlabeled=False, need_val=True, drawn=drawn)
    return [sample.image.absolute() for sample in (*sets.labeled, *sets.val)]
