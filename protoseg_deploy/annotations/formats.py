"""The table of formats: how each is recognised and read."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from protoseg_deploy.annotations.detecting import (
    TABLES,
    Look,
    find_yolo,
    has_binary_masks,
    is_cvat,
    is_voc,
    look_at,
)
from protoseg_deploy.annotations.shapes import DeclaredClass
from protoseg_deploy.annotations.source import Source
from protoseg_deploy.errors import UsageError


@dataclass(frozen=True)
class Format:
    """One line of the table."""

    name: str
    """As ``--format`` takes it."""
    looked_for: str
    """By what it is recognised, for messages."""
    find: Callable[[Look], list[Path]]
    """Files or folders of a source that can be opened as this format."""
    reader: str
    """``module:function`` of its `Reader`."""
    is_weak: bool = False
    """It counts only where nothing else is found: names of files alone say little."""

    def open(self, look: Look) -> AbstractContextManager[Source]:
        """Open what lies at a place that `find` has given."""
        module, _, function = self.reader.partition(":")
        reader = getattr(import_module(f"protoseg_deploy.annotations.{module}"), function)
        opened: AbstractContextManager[Source] = reader(look)
        return opened


FORMATS: tuple[Format, ...] = (
    Format(
        "coco",
        "a .json file with `images`, `annotations` and `categories`",
        lambda look: look.json_files("coco"),
        "coco:open_coco",
    ),
    Format(
        "labelme",
        ".json files with `shapes` and `imagePath`",
        lambda look: look.folder_of("labelme"),
        "labelme:open_labelme",
    ),
    Format(
        "cvat",
        "an .xml file with <annotations>, as of `CVAT for images 1.1`",
        lambda look: [file for file in look.ending(".xml") if is_cvat(file)],
        "cvat:open_cvat",
    ),
    Format(
        "label-studio",
        "a .json file with a list of tasks",
        lambda look: look.json_files("label-studio"),
        "label_studio:open_label_studio",
    ),
    Format("yolo", "data.yaml or classes.txt, and .txt files in a folder `labels`", find_yolo, "yolo:open_yolo"),
    Format(
        "supervisely",
        "meta.json with `classes`, and .json files in folders `ann`",
        lambda look: [file.parent for file in look.json_files("supervisely-meta") if file.name == "meta.json"],
        "supervisely:open_supervisely",
    ),
    Format(
        "cityscapes",
        "files named …_polygons.json",
        lambda look: [look.path] if look.ending("_polygons.json") else [],
        "cityscapes:open_cityscapes",
    ),
    Format(
        "voc",
        "a folder `SegmentationClass`",
        lambda look: look.folders_named("SegmentationClass"),
        "color_masks:open_voc",
    ),
    Format(
        "color-masks",
        f"masks and a table of colours: {', '.join(TABLES)}",
        lambda look: [look.path] if look.images and look.named(*TABLES) and not is_voc(look) else [],
        "color_masks:open_color_masks",
    ),
    Format(
        "binary-masks",
        "masks named as their image and a class, such as photo_crack.png of photo.jpg",
        lambda look: [look.path] if look.path.is_dir() and has_binary_masks(look) else [],
        "binary_masks:open_binary_masks",
        is_weak=True,
    ),
)


def format_named(name: str) -> Format:
    """Of the table."""
    return next(one for one in FORMATS if one.name == name)


@contextmanager
def open_source(
    path: Path,
    name: str | None,
    images: Path | None = None,
    classes: tuple[DeclaredClass, ...] | None = None,
    leave_out: Path | None = None,
) -> Iterator[Source]:
    """Open annotations, in the format that they are found to be in unless one is named.

    Args:
        path: a file or folder.
        name: of the format.
        images: the folder of images, if it was named.
        classes: in index order, if they were named.
        leave_out: a folder that is not looked into, for masks that lie in the source.

    Raises:
        UsageError: there is nothing, nothing of a known format, or of more than one; what was looked for is listed.
        DataError: see `Reader`.
    """
    if not path.exists():
        raise UsageError(f"no such file or folder: {path}")
    if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        raise UsageError(f"{path} is an archive", "Unpack it and give the folder.")
    look = look_at(path, images, classes, leave_out)
    found = [(one, place) for one in FORMATS if name in (None, one.name) for place in one.find(look)]
    if name is None and any(not one.is_weak for one, _ in found):
        found = [(one, place) for one, place in found if not one.is_weak]
    if not found and name in ("labelme", "yolo", "binary-masks", "color-masks") and path.is_dir():
        found = [(format_named(name), path)]  # as far as its files can be told by no look at them
    if not found:
        wanted = [f"  {one.name}: {one.looked_for}" for one in FORMATS if name in (None, one.name)]
        raise UsageError(
            "\n".join([f"{path}: no annotations found{f' in the format {name}' if name else ''}. Looked for", *wanted]),
            f"There is: {look.summary}." if look.summary else "The folder is empty.",
        )
    if len(found) > 1:
        seen = [f"  {one.name}: {place}" for one, place in found[:20]]
        more = f"\n  … and {len(found) - 20} more" if len(found) > 20 else ""
        raise UsageError(
            "\n".join([f"{path}: several annotations are found", *seen]) + more,
            "Give one of these files or folders as SOURCE, or choose with --format.",
        )
    ((one, place),) = found
    with one.open(look.at(place)) as source:
        yield source
