"""Labelled and unlabelled images into lists for training and validation; scenes and groups are never in both."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protoseg_deploy.data import Sample, write_list
from protoseg_deploy.data.similarity import read_thumbnails
from protoseg_deploy.data.splitting import Evenness, draw_covering, evenness, split_groups
from protoseg_deploy.data.survey import MaskContent, color_of, survey_masks
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.projects.grouping import group_images
from protoseg_deploy.projects.pairing import Pairs
from protoseg_deploy.recipe import ImageReading

Progress = Callable[[int, int], None]
IGNORED = 255
_LISTS = ("labeled", "val", "unlabeled", "left_out")


@dataclass(frozen=True)
class Part:
    """One list."""

    images: int
    groups: int
    """Scenes, or groups of them, that it shows."""


@dataclass(frozen=True)
class ClassShare:
    """One value of the masks in the two parts."""

    name: str
    training: tuple[float, int]
    """Percent of the pixels, and images that show it."""
    validation: tuple[float, int]

    def cells(self) -> tuple[str, ...]:
        """For a table."""
        return tuple(
            str(cell) for percent, count in (self.training, self.validation) for cell in (f"{percent:.2f}", count)
        )


@dataclass(frozen=True)
class Division:
    """Which image is in which list."""

    pairs: Pairs
    labeled: tuple[Path, ...]
    """With masks, trained on."""
    val: tuple[Path, ...]
    unlabeled: tuple[Path, ...]
    """All others that may be trained on, masks or not."""
    left_out: tuple[Path, ...]
    """Without masks, of scenes or groups that are validated on."""
    groups: dict[Path, int]
    values: tuple[str, ...]
    """Of the masks."""
    pixels: dict[Path, NDArray[np.int64]]
    """``[C]`` of each value, by image."""
    seed: int
    evenness: Evenness
    faults: tuple[str, ...]
    """Images and masks that cannot be read and are in no list; lists of another length than asked for."""

    def parts(self) -> dict[str, Part]:
        """By name of the list."""
        named = {"labeled": self.labeled, "val": self.val, "unlabeled": self.unlabeled, "left_out": self.left_out}
        return {name: Part(len(some), len({self.groups[path] for path in some})) for name, some in named.items()}

    def class_shares(self) -> list[ClassShare]:
        """For each value of the masks."""
        parts = [_stacked([self.pixels[path] for path in some], len(self.values)) for some in (self.labeled, self.val)]
        totals = [max(1, int(part.sum())) for part in parts]
        return [
            ClassShare(
                name,
                *(
                    (100 * float(part[:, column].sum()) / total, int((part[:, column] > 0).sum()))
                    for part, total in zip(parts, totals, strict=True)
                ),
            )
            for column, name in enumerate(self.values)
        ]

    def remarks(self) -> list[str]:
        """What deserves a look."""
        lines = [*self.faults]
        for where, columns in (
            ("training", self.evenness.absent_in_training),
            ("validation", self.evenness.absent_in_validation),
        ):
            if columns:
                names = ", ".join(self.values[column] for column in columns)
                lines.append(f"no {where} image shows {names}: too few images or scenes do")
        if self.left_out:
            lines.append(f"{len(self.left_out)} images without masks show scenes that are validated on: left_out.txt")
        return lines

    def recipe_lines(self, out: Path) -> list[str]:
        """What a recipe says to use the lists."""
        root = self.root()
        lines = [f"root: {json.dumps(str(root), ensure_ascii=False)}"]
        for name, some in (("labeled", self.labeled), ("val", self.val), ("unlabeled", self.unlabeled)):
            if some:
                file = json.dumps(str((out / f"{name}.txt").absolute()), ensure_ascii=False)
                lines.append(f"{name}: {{list: {file}}}")
        return lines

    def root(self) -> Path:
        """The deepest folder that all files are in."""
        files = [*self.pairs.images, *self.pairs.masks.values()]
        return Path(os.path.commonpath([path.parent for path in files]))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "seed": self.seed,
            "masks": self.pairs.how,
            "lists": {name: {"images": part.images, "scenes": part.groups} for name, part in self.parts().items()},
            "classes": [
                {
                    "value": share.name,
                    "training_percent": share.training[0],
                    "training_images": share.training[1],
                    "validation_percent": share.validation[0],
                    "validation_images": share.validation[1],
                }
                for share in self.class_shares()
            ],
            "largest_deviation": self.evenness.largest_deviation,
            "remarks": self.remarks(),
        }


def divide(
    pairs: Pairs,
    *,
    labeled: int | None = None,
    val: int | None = None,
    group_by: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    reading: ImageReading | None = None,
    contents: Sequence[MaskContent] | None = None,
) -> Division:
    """Choose validation images and labelled images for training.

    Args:
        pairs: images and masks.
        labeled: images with masks to train with, showing every class if possible; None: all that are not validated on.
        val: images to validate on; None: a fifth.
        group_by: ``folder``, ``time`` (EXIF, else the time of modification; within 60 s), or a regular expression
            whose group in the file name is the group.
        seed: of every choice.
        progress: called with what is done.
        reading: how images are read.
        contents: of the masks of `pairs`, in their order, where they were read before.

    Raises:
        UsageError: there are fewer images with masks than asked for, or no mask.
        DataError: no image with a mask can be read, or all of them show one scene.
    """
    read = contents if contents is not None else survey_masks(list(pairs.masks.values()))
    held = dict(zip(pairs.masks, read, strict=True))
    thumbnails = read_thumbnails(pairs.images, reading or ImageReading(), progress)
    readable = {path: index for index, path in enumerate(pairs.images) if not thumbnails.faults[index]}
    masked = [path for path in pairs.images if path in readable and path in held and not held[path].fault]
    bad = [fault for fault in thumbnails.faults if fault] + [each.fault for each in read if each.fault]
    if bad and not masked:
        raise DataError("no image with a mask can be read", bad)
    val = max(1, round(len(masked) / 5)) if val is None else val
    if len(masked) < 2 or val >= len(masked) or val + (labeled or 1) > len(masked):
        raise UsageError(
            f"{len(masked)} images with masks cannot be divided into {labeled or 'at least 1'} and {val}",
            f"Masks found: {pairs.how}. Name their folder with --masks, or ask for fewer.",
        )
    everything = list(readable)
    groups = dict(
        zip(everything, group_images(everything, thumbnails.pixels[list(readable.values())], group_by), strict=True)
    )
    values, pixels = _values(held, masked)
    table = _stacked([pixels[path] for path in masked], len(values))
    if len({groups[path] for path in masked}) < 2:
        raise DataError(
            "all images with masks show one scene, or are of one group: nothing can be validated",
            hint="Add images of another scene, or use another --group-by.",
        )
    is_val = split_groups(table, [groups[path] for path in masked], val, seed)
    remaining = [path for path, chosen in zip(masked, is_val, strict=True) if not chosen]
    chosen = draw_covering(table[~is_val], len(remaining) if labeled is None else labeled, seed)
    validated = {groups[path] for path, chosen_ in zip(masked, is_val, strict=True) if chosen_}
    others = [path for path in everything if path not in set(masked)]
    short = [
        f"{found} {name} images instead of {wanted}: scenes and groups stay together"
        for name, found, wanted in (("labelled", len(chosen), labeled), ("validation", int(is_val.sum()), val))
        if wanted is not None and found != wanted
    ]
    return Division(
        pairs=pairs,
        labeled=tuple(remaining[index] for index in chosen),
        val=tuple(path for path, chosen_ in zip(masked, is_val, strict=True) if chosen_),
        unlabeled=tuple(sorted([*remaining, *(path for path in others if groups[path] not in validated)])),
        left_out=tuple(path for path in others if groups[path] in validated),
        groups=groups,
        values=values,
        pixels=pixels,
        seed=seed,
        evenness=evenness(table, is_val),
        faults=(*short, *bad),
    )


def write_lists(division: Division, out: Path) -> list[Path]:
    """Write ``labeled.txt``, ``val.txt``, ``unlabeled.txt``, ``left_out.txt`` where not empty, and ``split.json``.

    Raises:
        UsageError: files with these names are there, and no earlier split wrote them.
        WriteError: a file cannot be written.
    """
    _refuse_others(out)
    root, masks = division.root(), division.pairs.masks
    written = []
    for name in _LISTS:
        some: Sequence[Path] = getattr(division, name)
        with_masks = name in ("labeled", "val")
        if some:
            samples = [Sample(path, masks[path] if with_masks else None) for path in some]
            write_list(out / f"{name}.txt", samples, root)
            written.append(out / f"{name}.txt")
        else:
            (out / f"{name}.txt").unlink(missing_ok=True)  # of an earlier split
    text = json.dumps(division.to_dict(), indent=2, ensure_ascii=False) + "\n"
    write_atomically(out / "split.json", text.encode("utf-8", "surrogateescape"))
    return [*written, out / "split.json"]


def _refuse_others(out: Path) -> None:
    there = next((out / f"{name}.txt" for name in _LISTS if (out / f"{name}.txt").exists()), None)
    if there is not None and not (out / "split.json").is_file():
        raise UsageError(
            f"{there} is there already, and no split of ours", "Choose another --out; nothing was written."
        )


def _stacked(rows: Sequence[NDArray[np.int64]], columns: int) -> NDArray[np.int64]:
    return np.stack(rows) if rows else np.zeros((0, columns), np.int64)


def _values(
    contents: dict[Path, MaskContent], masked: Sequence[Path]
) -> tuple[tuple[str, ...], dict[Path, NDArray[np.int64]]]:
    """Names of the values in the masks, and the pixels of each by image; 255 is no class where indices are stored."""
    is_color = any(contents[path].is_color for path in masked)
    found = sorted({value for path in masked for value in contents[path].pixels})
    values = [value for value in found if is_color or value != IGNORED]
    place = {value: column for column, value in enumerate(values)}
    pixels = {}
    for path in masked:
        row = np.zeros(len(values), np.int64)
        for value, count in contents[path].pixels.items():
            if value in place:
                row[place[value]] = count
        pixels[path] = row
    names = tuple(",".join(map(str, color_of(value))) if is_color else str(value) for value in values)
    return names, pixels
