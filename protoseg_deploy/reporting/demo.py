"""The whole path on the embedded data set: what ``protoseg demo`` does.

Everything here goes through the functions behind the other commands; the demo only calls them in order and puts their
results side by side.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.data import Sample, find_data, read_image, read_mask
from protoseg_deploy.data.scenes import is_scene_folder, write_scenes
from protoseg_deploy.distillation import distill
from protoseg_deploy.documents import dump_document
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.evaluation.colors import colorize
from protoseg_deploy.evaluation.evaluate import evaluate
from protoseg_deploy.exchange import replacing, settle
from protoseg_deploy.exporting import Calibration, export_bundle
from protoseg_deploy.files import write_atomically
from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import ClassTable, Recipe, class_table, image_reading, load_recipe, mask_reading
from protoseg_deploy.reporting.card import export_card
from protoseg_deploy.reporting.panel import Row, panel
from protoseg_deploy.runtimes import Runtime, open_runtime
from protoseg_deploy.training import RESUMING, Run, train
from protoseg_deploy.training.records import finite

METHODS = ("supervised", "fixmatch", "prototype")
STUDENT = ("model.backbone=test_efficientnet", "model.decoder=lraspp")
"""What the distilled student changes of the teacher's recipe."""

_PANEL_ROWS = 4


@dataclass(frozen=True)
class DemoRow:
    """One line of the final table."""

    name: str
    miou_percent: float
    iou_percent: dict[str, float | None]
    parameters: int
    file_bytes: int
    latency_p50_ms: float
    train_seconds: float | None
    """None for what is not trained."""


@dataclass(frozen=True)
class DemoResult:
    """Results of the demo; `results.json` holds the same."""

    rows: tuple[DemoRow, ...]
    panel: Path
    bundle: Path
    seconds: float


def run_demo(folder: Path, say: Callable[[str], object], *, overrides: tuple[str, ...] = ()) -> DemoResult:
    """Write the data set, train, distil, export, verify, evaluate and measure.

    A demo that was interrupted resumes where it stopped when it is called again.

    Args:
        folder: gets ``data``, ``runs``, ``bundle``, ``panel.png`` and ``results.json``.
        say: called with a line before each stage, worded as the command that does the same.
        overrides: of the recipe ``demo``.

    Raises:
        UsageError: the folder holds something else.
    """
    try:
        return _run_demo(folder, say, overrides)
    except ProtosegError as error:
        error.hint = error.hint.replace(RESUMING, "the same command")  # a demo needs no --resume, nor does it have one
        raise


def _run_demo(folder: Path, say: Callable[[str], object], overrides: tuple[str, ...]) -> DemoResult:
    started = time.perf_counter()
    _check_folder(folder)
    data, runs, bundle = folder / "data", folder / "runs", folder / "bundle"
    if not data.exists():
        say(f"writing the embedded data set to {data}")
        with replacing(data, _require_scenes) as replacement:
            write_scenes(replacement.folder)
            replacement.put_in_place()
    arguments = (f"data.root={data}", *overrides)
    for name in METHODS:
        say(f"protoseg train demo --run {runs / name} {' '.join(arguments)} method.name={name}")
        recipe = load_recipe("demo", [*arguments, f"method.name={name}"])
        train(recipe, runs / name, build_method, resume=Run(runs / name).exists())
    student = runs / "student"
    say(f"protoseg distill {runs / 'prototype'} --run {student} {' '.join(STUDENT)}")
    distill(runs / "prototype", student, STUDENT, resume=Run(student).exists())
    recipe = load_recipe("demo", arguments)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    samples = sets.val
    say(f"protoseg export {student} --bundle {bundle} --precision fp32,int8")
    calibration = Calibration(sets.unlabeled)
    made = export_bundle(
        student,
        bundle,
        precisions=("fp32", "int8"),
        calibration=calibration,
        samples=samples,
        card=export_card(student, bundle),
    )
    verification = made.manifest.verification
    assert verification is not None
    for stage in verification.stages:
        say(
            f"verified on {verification.images} images: {stage.stage} agrees with {stage.against} in "
            f"{stage.agreement_percent:.4f} % of the pixels"
        )
    runtimes = {name: open_runtime(runs / name) for name in METHODS}
    runtimes |= {"student": open_runtime(student), "student ONNX": open_runtime(bundle)}
    runtimes["student int8"] = open_runtime(bundle, device="cpu", precision="int8")
    say("evaluating and measuring all of them on the validation images")
    rows = _measure(runtimes, runs, recipe, samples)
    _draw(runtimes, rows, recipe, samples, folder / "panel.png")
    result = DemoResult(rows, folder / "panel.png", bundle, time.perf_counter() - started)
    document: dict[str, Any] = {"rows": [asdict(row) for row in rows], "seconds": result.seconds}
    write_atomically(folder / "results.json", dump_document(finite(document)))
    return result


def _check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a demo: what is there may bear the names of what would be written."""
    if folder.is_file():
        raise UsageError(f"{folder} is a file", "Give a folder with --out.")
    settle(folder / "data")
    known = {"data", "runs", "bundle", "bundle-failed", "panel.png", "results.json"}
    made = is_scene_folder(folder / "data")
    strangers = sorted(
        path.name for path in folder.glob("*") if path.name[0] != "." and not (made and path.name in known)
    )
    if strangers:
        raise UsageError(f"{folder} holds something else already: {', '.join(strangers[:3])}", "Give a new folder.")


def _require_scenes(data: Path) -> None:
    """Refuse to replace what somebody has put there while the scenes were drawn."""
    if not is_scene_folder(data):
        raise UsageError(f"{data} was created by another program in the meantime", "Give a new folder.")


def _measure(
    runtimes: dict[str, Runtime], runs: Path, recipe: Recipe, samples: tuple[Sample, ...]
) -> tuple[DemoRow, ...]:
    images = read_image(samples[0].image, image_reading(recipe.data))[None]
    reports = measure_interleaved(list(runtimes.values()), images=images, seconds=1.0, warmup_seconds=1.0)
    rows = []
    for (name, runtime), report in zip(runtimes.items(), reports, strict=True):
        scores = evaluate(runtime, samples, masks=mask_reading(recipe.data)).to_dict()
        trained = Run(runs / name)
        rows.append(
            DemoRow(
                name=name,
                miou_percent=scores["miou_percent"],
                iou_percent=scores["iou_percent"],
                parameters=runtime.info.parameters,
                file_bytes=runtime.info.file_bytes,
                latency_p50_ms=report.stats.p50_ms,
                train_seconds=trained.summary()["train_seconds"] if trained.exists() else None,
            )
        )
    return tuple(rows)


def _draw(
    runtimes: dict[str, Runtime], rows: tuple[DemoRow, ...], recipe: Recipe, samples: tuple[Sample, ...], path: Path
) -> None:
    classes: ClassTable = class_table(recipe.data)
    pictures: list[Row] = []
    for sample in samples[:: max(1, len(samples) // _PANEL_ROWS)][:_PANEL_ROWS]:
        assert sample.mask is not None
        image = read_image(sample.image, image_reading(recipe.data))
        mask = read_mask(sample.mask, mask_reading(recipe.data))
        row: list[tuple[str, np.ndarray]] = [("image", image), ("truth", colorize(mask, classes.colors))]
        for (name, runtime), figures in zip(runtimes.items(), rows, strict=True):
            prediction = runtime.predict(image[None])[0]
            row.append((f"{name}\nmIoU {figures.miou_percent:.1f}", colorize(prediction, classes.colors)))
        pictures.append((sample.image.stem, row))
    panel(pictures, path, classes=classes, ignored=True)
