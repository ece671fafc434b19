"""A project from a folder of photographs: looked at, divided, written."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from protoseg_deploy.data import image_header
from protoseg_deploy.data.images import read_values
from protoseg_deploy.data.survey import survey_masks
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.projects.backbones import Start, choose_backbone
from protoseg_deploy.projects.choosing import Choice, Facts, choose
from protoseg_deploy.projects.converted import pairs_of_annotations
from protoseg_deploy.projects.dividing import Division, divide, write_lists
from protoseg_deploy.projects.naming import Naming, name_classes
from protoseg_deploy.projects.pairing import Pairs, find_pairs
from protoseg_deploy.projects.trying import Fitting, available_memory_mib, fit_to_machine
from protoseg_deploy.projects.writing import next_steps, recipe_text
from protoseg_deploy.recipe import ImageReading

_LOOKED_AT, _DEPTHS = 300, 20
Stage = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Wishes:
    """What the user said; None: to be found out."""

    masks: Path | None = None
    classes: Path | None = None
    weights: Path | None = None
    backbone: str | None = None
    labeled: int | None = None
    val: int | None = None
    group_by: str | None = None
    seed: int = 0
    copy: bool = False


@dataclass(frozen=True)
class Project:
    """What was made."""

    folder: Path
    division: Division
    naming: Naming
    choices: tuple[Choice, ...]
    fitting: Fitting
    remarks: tuple[str, ...]

    @property
    def training_minutes(self) -> float | None:
        """Of the first run; None where it could not be tried."""
        if self.fitting.cost is None:
            return None
        steps = next(choice.value for choice in self.choices if choice.key == "train.steps")
        return float(steps * self.fitting.cost.step_ms / 60_000)


def make_project(
    images: Sequence[Path], out: Path, wishes: Wishes, *, stage: Stage, progress: Progress | None = None
) -> Project:
    """Look at images and masks and write a project: recipe, classes, lists, next steps.

    Args:
        images: folders, or files.
        out: a new folder, or an empty one.
        wishes: see `Wishes`.
        stage: called with what is done now.
        progress: called while images are read.

    Raises:
        UsageError: something is in `out`, or what was asked for cannot be had.
        DataError: images or masks cannot be used.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is not empty", "Choose another --out, or remove it; nothing was written.")
    there = out.is_dir()
    try:
        return _made(images, out, wishes, stage, progress)
    except ProtosegError:
        if not there:  # what was written before the fault showed
            shutil.rmtree(out, ignore_errors=True)
        raise


def _made(images: Sequence[Path], out: Path, wishes: Wishes, stage: Stage, progress: Progress | None) -> Project:
    stage("looking for images and masks")
    doubts: list[str] = []
    if wishes.masks is not None and wishes.masks.is_file():
        pairs, classes, doubts = pairs_of_annotations(images, wishes.masks, out / "annotations", progress)
        wishes = replace(wishes, classes=wishes.classes or classes)
    else:
        pairs = find_pairs(images, wishes.masks)
    if not pairs.masks:
        raise UsageError(
            f"{len(pairs.images)} images and no masks",
            "Name the folder of masks with --masks. Masks of annotation tools: `protoseg convert` reads them.",
        )
    start = choose_backbone(wishes.weights, wishes.backbone, torch.cuda.is_available())
    contents = survey_masks(list(pairs.masks.values()))
    folders = dict.fromkeys(place for mask in pairs.masks.values() for place in (mask.parent, mask.parent.parent))
    naming = name_classes(contents, list(folders), wishes.classes)
    reading, reading_choices = _reading(pairs.images)
    stage("comparing images")
    division = divide(
        pairs,
        labeled=wishes.labeled,
        val=wishes.val,
        group_by=wishes.group_by,
        seed=wishes.seed,
        progress=progress,
        reading=reading,
        contents=contents,
    )
    if wishes.copy:
        stage("copying")
        division = _copied(division, out)
    choices = _choices(division, naming, start, reading, reading_choices, out)
    stage("trying steps")
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "classes.json", _classes_text(naming))
    write_lists(division, out / "lists")
    recipe = out / "recipe.yaml"
    _write(recipe, recipe_text(choices))
    values = {choice.key: choice.value for choice in choices}
    on_gpu = torch.cuda.is_available()
    fitting = fit_to_machine(
        recipe, values["method.name"], values["train.batch_labeled"], on_gpu, available_memory_mib()
    )
    choices = _fitted(choices, fitting)
    _write(recipe, recipe_text(choices))
    remarks = [*doubts, *division.remarks(), *([start.warning] if start.warning else [])]
    if pairs.unused_masks:
        remarks.append(f"{len(pairs.unused_masks)} masks belong to no image, first {pairs.unused_masks[0]}")
    project = Project(out, division, naming, tuple(choices), fitting, tuple(remarks))
    _write(out / "NEXT.md", next_steps(os.fspath(out), project.training_minutes, remarks))
    return project


def _write(path: Path, text: str) -> None:
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


def _classes_text(naming: Naming) -> str:
    document: dict[str, object] = {"names": list(naming.names)}
    if naming.colors is not None:
        document["colors"] = [list(color) for color in naming.colors]
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _reading(images: Sequence[Path]) -> tuple[ImageReading, list[Choice]]:
    """How images of several bands, or of more than 8 bits, are read."""
    step = max(1, len(images) // _DEPTHS)
    one_band = ImageReading(bands=(1,))  # which every file has
    bands: Counter[int] = Counter()
    deep = []
    for path in images[::step]:
        try:
            bands[image_header(path, one_band).bands] += 1
            deep.append(read_values(path, one_band).dtype != np.uint8)
        except DataError:
            continue
    choices = []
    reading = ImageReading()
    most = max(bands, default=3)
    if most not in (1, 3, 4) or (len(bands) > 1 and most > 4):
        chosen = (1, 2, 3) if most >= 3 else (1,)
        choices.append(Choice("data.bands", list(chosen), f"files of {most} bands: the first are taken"))
        reading = reading.model_copy(update={"bands": chosen})
    if deep and sum(deep) > len(deep) / 2:
        choices.append(Choice("data.value_range", "percentile_1_99", "more than 8 bits: the range is measured"))
    return reading, choices


def _choices(
    division: Division, naming: Naming, start: Start, reading: ImageReading, said: Sequence[Choice], out: Path
) -> list[Choice]:
    lists = (out / "lists").absolute()
    images = [*division.labeled, *division.val]
    every = max(1, len(images) // _LOOKED_AT)
    sizes = [image_header(path, reading).size for path in images[::every]]
    facts = Facts(
        heights=[height for height, _ in sizes],
        widths=[width for _, width in sizes],
        labeled=len(division.labeled),
        unlabeled=len(division.unlabeled),
        val=len(division.val),
        class_percent=[share.training[0] for share in division.class_shares()],
        on_gpu=torch.cuda.is_available(),
    )
    chosen = choose(facts)
    parts = [
        Choice("data.root", os.fspath(division.root()), "the paths in the lists start here"),
        Choice("data.labeled.list", os.fspath(lists / "labeled.txt"), f"masks: {division.pairs.how}"),
        Choice("data.val.list", os.fspath(lists / "val.txt"), "other scenes than those that are trained on"),
    ]
    if division.unlabeled and any(choice.value == "prototype" for choice in chosen):
        parts.append(Choice("data.unlabeled.list", os.fspath(lists / "unlabeled.txt"), "all other images"))
    parts.append(Choice("data.classes", os.fspath((out / "classes.json").absolute()), naming.reason))
    if naming.value_map:
        parts.append(Choice("data.value_map", dict(naming.value_map), "values of the masks, and what they become"))
    if naming.ignore_colors:
        colors = [list(color) for color in naming.ignore_colors]
        parts.append(Choice("data.ignore_colors", colors, "by their names, no classes"))
    if naming.read_by_color and any(_is_palette(division, path) for path in division.labeled):
        parts.append(Choice("data.palette_masks", "colors", "some masks have palettes"))
    model = [
        Choice("model.backbone", start.backbone, start.reason),
        Choice("model.weights", start.weights, ""),
        Choice("model.decoder", "fpn", "the best of its cost in docs/results/students.md"),
        Choice("model.output_stride", 32, ""),
    ]
    return [*parts, *said, *model, *chosen]


def _is_palette(division: Division, image: Path) -> bool:
    return bool(survey_masks([division.pairs.masks[image]])[0].palette)


def _fitted(choices: Sequence[Choice], fitting: Fitting) -> list[Choice]:
    changed = {
        "train.batch_labeled": Choice("train.batch_labeled", fitting.batch, fitting.batch_reason),
        "train.batch_unlabeled": Choice("train.batch_unlabeled", fitting.batch, "as many as labelled ones"),
    }
    fitted = [changed.get(choice.key, choice) for choice in choices]
    return [*fitted, Choice("train.precision", fitting.precision, fitting.precision_reason)]


def _copied(division: Division, out: Path) -> Division:
    """The same with copies of all files in the project."""
    root = division.root()
    places = {path: out.absolute() / "data" / path.relative_to(root) for path in _files(division)}
    for source, target in places.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    moved = Pairs(
        tuple(places[path] for path in division.pairs.images),
        {places[image]: places[mask] for image, mask in division.pairs.masks.items()},
        division.pairs.how,
        (),
    )
    return replace(
        division,
        pairs=moved,
        groups={places[path]: group for path, group in division.groups.items()},
        pixels={places[path]: row for path, row in division.pixels.items()},
        labeled=tuple(places[path] for path in division.labeled),
        val=tuple(places[path] for path in division.val),
        unlabeled=tuple(places[path] for path in division.unlabeled),
        left_out=tuple(places[path] for path in division.left_out),
    )


def _files(division: Division) -> set[Path]:
    return {*division.pairs.images, *division.pairs.masks.values()}
