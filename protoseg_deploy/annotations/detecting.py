"""What a source holds, found by looking at names and at the beginnings of a few files."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from protoseg_deploy.annotations.shapes import DeclaredClass
from protoseg_deploy.data.paths import identity_of, is_image_name
from protoseg_deploy.files import open_regular

_HEAD = 1 << 16
_MOST_LOOKED_AT = 200
"""JSON files whose beginning is read: formats with a file per image have as many as images."""
_MOST_FILES = 200_000


@dataclass
class Look:
    """Files of a source, in sorted order."""

    path: Path
    files: list[Path] = field(default_factory=list)
    """All but images and hidden ones; the path itself where it is a file."""
    images: list[Path] = field(default_factory=list)
    image_folder: Path | None = None
    """Where the images are, if it was said."""
    classes: tuple[DeclaredClass, ...] | None = None
    """In index order, if they were named."""

    def at(self, place: Path) -> "Look":
        """What of it lies at a place, or below."""
        files, images = (
            [file for file in some if file == place or place in file.parents] for some in (self.files, self.images)
        )
        return Look(place, files, images, self.image_folder, self.classes)

    @property
    def folder(self) -> Path:
        """The source, or the folder it lies in."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def summary(self) -> str:
        """What there is, by endings."""
        counts = Counter(path.suffix.lower() or "without an ending" for path in [*self.files, *self.images])
        return ", ".join(f"{count} {ending}" for ending, count in counts.most_common(8))

    def named(self, *names: str) -> list[Path]:
        """Files with one of these names, in lower case."""
        return [path for path in self.files if path.name.lower() in names]

    def ending(self, *endings: str) -> list[Path]:
        """Files with one of these endings."""
        return [path for path in self.files if path.name.lower().endswith(endings)]

    @cached_property
    def json_kinds(self) -> dict[Path, str]:
        """Formats of JSON files, of the first of a kind that has a file per image."""
        found = {}
        for path in self.ending(".json")[:_MOST_LOOKED_AT]:
            if kind := json_kind(path):
                found[path] = kind
        return found

    def folders_named(self, name: str) -> list[Path]:
        """Folders of this name that hold images."""
        return sorted({folder for file in self.images for folder in file.parents if folder.name == name})

    def json_files(self, kind: str) -> list[Path]:
        """Files that are of a format as a whole."""
        return [path for path, found in self.json_kinds.items() if found == kind]

    def folder_of(self, kind: str) -> list[Path]:
        """The source, if a file in it is of a format with a file per image."""
        return [self.path] if kind in self.json_kinds.values() else []


def look_at(
    path: Path,
    image_folder: Path | None = None,
    classes: tuple[DeclaredClass, ...] | None = None,
    leave_out: Path | None = None,
) -> Look:
    """List a source, but not a folder in it where masks are written."""
    look = Look(path, image_folder=image_folder, classes=classes)
    places = [path] if path.is_file() else itertools.islice(_walk(path, leave_out), _MOST_FILES)
    for place in places:
        (look.images if is_image_name(place.name) else look.files).append(place)
    return look


def _walk(folder: Path, leave_out: Path | None) -> Iterator[Path]:
    skipped = identity_of(leave_out) if leave_out is not None else None
    for place, folders, names in os.walk(folder):
        if skipped is not None and identity_of(Path(place)) == skipped:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


_KEY = re.compile(rb'"((?:[^"\\]|\\.){1,40})"\s*:')


def json_kind(path: Path) -> str:
    """``coco``, ``labelme``, ``cityscapes``, ``supervisely``, ``supervisely-meta``, ``label-studio`` or nothing.

    By the keys in its first 64 KiB, and for COCO, whose lists may be of any length, in its last.
    """
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
            size = path.stat().st_size
            file.seek(max(0, size - _HEAD))
            tail = file.read(_HEAD)
    except OSError:
        return ""
    keys = {match.decode(errors="replace") for match in _KEY.findall(head)}
    last = keys | {match.decode(errors="replace") for match in _KEY.findall(tail)}
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"[":
        is_tasks = "data" in keys and keys & {"annotations", "completions", "predictions"}
        is_flat = "image" in keys and keys & {"original_width", "annotator"}
        return "label-studio" if is_tasks or is_flat else ""
    if "shapes" in keys | last and (last & {"imagePath", "imageData", "shape_type"}):
        return "labelme"
    if "imgHeight" in keys and "objects" in keys:
        return "cityscapes"
    if "objects" in last and "size" in last and (last & {"classTitle", "tags", "description"}):
        return "supervisely"
    if "classes" in keys and "title" in keys and not keys & {"images", "annotations"}:
        return "supervisely-meta"
    if last & {"images", "annotations"} and last & {"categories", "category_id", "file_name", "segmentation"}:
        return "coco"
    return ""


TABLES = ("class_dict.csv", "label_colors.txt", "labelmap.txt", "colors.csv", "colors.json", "classes.csv")
"""Names of tables of colours that are recognised."""

YOLO_CLASSES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "classes.txt", "obj.names")
"""Names of files that name YOLO's classes."""


def is_cvat(path: Path) -> bool:
    """Whether an XML file begins as CVAT's do."""
    try:
        with open_regular(path) as file:
            return b"<annotations" in file.read(_HEAD)
    except OSError:
        return False


def is_voc(look: Look) -> bool:
    """Whether masks lie in a folder of Pascal VOC's name."""
    return bool(look.folders_named("SegmentationClass"))


def find_yolo(look: Look) -> list[Path]:
    """The source, if it is YOLO's."""
    tables = look.named(*YOLO_CLASSES)
    labels = any("labels" in file.relative_to(look.folder).parts[:-1] for file in look.ending(".txt"))
    return [look.path] if look.path.is_dir() and tables and (labels or look.named("classes.txt", "data.yaml")) else []


def has_binary_masks(look: Look) -> bool:
    """Whether some picture is named as another one and a class."""
    stems = {file.stem for file in look.images}
    return any(file.stem[:at] in stems for file in look.images for at in _underscores(file.stem))


def _underscores(text: str) -> list[int]:
    return [at for at, character in enumerate(text) if character == "_" and at]
