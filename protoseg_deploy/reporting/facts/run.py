"""What the folder of a run says: finished, still training, or with parts missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.documents import first_fault, read_document, read_lines
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.models import build_segmenter, count_parameters, read_network_spec
from protoseg_deploy.recipe import ClassTable, Recipe, class_table
from protoseg_deploy.reporting.figures import number
from protoseg_deploy.training import Run
from protoseg_deploy.training.records import RunImages, Summary, UnreadableRecord


class _Record(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)
    step: NonNegativeInt


class _EvaluationRecord(_Record):
    miou_percent: float | None = None
    student_miou_percent: float | None = None
    iou_percent: dict[str, float | None] | None = None


class _UseRecord(_Record):
    pixels: tuple[tuple[float, ...], ...]
    within_class_cosine: tuple[float | None, ...]
    dead: tuple[int, ...]


_Shape = TypeVar("_Shape", bound=_Record)
Points = tuple[tuple[int, float], ...]
"""Steps and values."""

_NOT_TERMS = {"kind", "step", "lr", "images_per_second", "skipped_steps"}


@dataclass(frozen=True)
class EvaluationFacts:
    """One evaluation on the validation images; values are percent, None where nothing was counted."""

    step: int
    kept_percent: float | None
    """mIoU of the network that is saved: the EMA teacher where there is one."""
    student_percent: float | None
    iou_percent: Mapping[str, float | None]
    """Of the network that is saved, by class."""


@dataclass(frozen=True)
class PrototypeUse:
    """What the prototype bank said of itself at an evaluation."""

    step: int
    pixels: tuple[tuple[float, ...], ...]
    """By class and prototype: pixels that moved it since the evaluation before."""
    within_class_cosine: tuple[float | None, ...]
    """By class: mean cosine between its prototypes; near 1 they have collapsed onto each other."""
    dead: tuple[int, ...]
    """By class: prototypes that no pixel has moved for 1,000 steps."""


@dataclass(frozen=True)
class NetworkFacts:
    """A network file of the run."""

    which: Literal["best", "last"]
    path: Path
    sha256: str
    bytes: int
    provenance: Mapping[str, Any]
    """What the file says of its training."""
    parameters: int | None
    """None: of a backbone that this installation of timm does not have."""


@dataclass(frozen=True)
class RunFacts:
    """A run, as far as its files say."""

    name: str
    """For people; two runs of a report never have the same."""
    folder: Path
    recipe: Recipe
    classes: ClassTable
    evaluations: tuple[EvaluationFacts, ...]
    terms: Mapping[str, Points]
    """Losses and shares by name, as logged."""
    speed: Points
    """Images per second."""
    skipped_steps: int
    prototypes: PrototypeUse | None
    summary: Mapping[str, Any] | None
    """None: the run is not finished."""
    images: RunImages | None
    unreadable: int
    """Unlabelled images that could not be read in training."""
    networks: tuple[NetworkFacts, ...]
    """Best first."""
    step: int
    """Of the last record."""
    recipe_sha256: str

    @property
    def steps(self) -> int:
        """Planned."""
        return self.recipe.train.steps

    @property
    def finished(self) -> bool:
        return self.summary is not None and self.summary["steps"] == self.steps

    @property
    def best(self) -> EvaluationFacts | None:
        """The evaluation whose network was kept as the best."""
        known = [evaluation for evaluation in self.evaluations if evaluation.kept_percent is not None]
        return max(known, key=lambda evaluation: (evaluation.kept_percent or 0.0, -evaluation.step), default=None)

    @property
    def last(self) -> EvaluationFacts | None:
        return self.evaluations[-1] if self.evaluations else None

    @property
    def best_percent(self) -> float | None:
        """mIoU of the best network: of the metrics, or of the file where nothing was trained here."""
        if self.best is not None:
            return self.best.kept_percent
        return next((number(network.provenance.get("miou_percent")) for network in self.networks), None)

    @property
    def parameters(self) -> int | None:
        return next((network.parameters for network in self.networks), None)

    @property
    def averages(self) -> bool:
        """Whether the network that is kept is a moving average of the student's."""
        return self.recipe.method.ema_teacher and self.recipe.method.name != "supervised"


def run_facts(folder: Path, name: str | None = None) -> RunFacts:
    """Read a run; what it does not have yet is absent.

    Args:
        folder: of the run, which may be in training.
        name: for people; the folder's when absent.

    Raises:
        UsageError: the folder is no run.
        ProtosegError: a file of it is damaged; the message names it.
    """
    run = Run(folder)
    if not run.exists():
        raise UsageError(
            f"{folder} is not a run: it has no {run.recipe_path.name}", "Runs are written by `protoseg train`."
        )
    recipe = run.recipe()
    records = run.metrics()
    uses = _read(run, "prototypes", _UseRecord, records)
    return RunFacts(
        name=name or folder.absolute().name,
        folder=folder,
        recipe=recipe,
        classes=class_table(recipe.data),
        evaluations=tuple(_evaluation(record) for record in _read(run, "evaluation", _EvaluationRecord, records)),
        terms=_terms(records),
        speed=_points(records, "images_per_second"),
        skipped_steps=sum(int(number(record.get("skipped_steps")) or 0) for record in records),
        prototypes=_use(uses[-1]) if uses else None,
        summary=_optional(run.summary_path, Summary),
        images=_images(run),
        unreadable=_unreadable(run),
        networks=tuple(_networks(run)),
        step=max((record["step"] for record in records), default=0),
        recipe_sha256=file_sha256(run.recipe_path),
    )


def _read(run: Run, kind: str, shape: type[_Shape], records: Sequence[Mapping[str, Any]]) -> list[_Shape]:
    """Records of a kind in the shape that they have to have."""
    found = []
    for record in records:
        if record["kind"] != kind:
            continue
        try:
            found.append(shape.model_validate(record))
        except ValidationError as error:
            raise ProtosegError(
                f"{run.metrics_path} is damaged: {kind} of step {record['step']}: {first_fault(error)}",
                "Remove the line, or put the file back from a copy of the run.",
            ) from None
    return found


def _evaluation(record: _EvaluationRecord) -> EvaluationFacts:
    return EvaluationFacts(record.step, record.miou_percent, record.student_miou_percent, record.iou_percent or {})


def _terms(records: Sequence[Mapping[str, Any]]) -> dict[str, Points]:
    trained = [record for record in records if record["kind"] == "train"]
    names = dict.fromkeys(name for record in trained for name in record if name not in _NOT_TERMS)
    found = {name: _points(trained, name) for name in names}
    return {name: points for name, points in found.items() if points}


def _points(records: Sequence[Mapping[str, Any]], name: str) -> Points:
    values = ((record["step"], number(record.get(name))) for record in records if record["kind"] == "train")
    return tuple((step, value) for step, value in values if value is not None)


def _use(record: _UseRecord) -> PrototypeUse:
    return PrototypeUse(record.step, record.pixels, record.within_class_cosine, record.dead)


def _optional(path: Path, shape: type[Summary]) -> dict[str, Any] | None:
    try:
        return read_document(
            path, shape, "Remove it and finish the run again, or put it back from a copy."
        ).model_dump()
    except FileNotFoundError:
        return None


def _images(run: Run) -> RunImages | None:
    try:
        return read_document(run.images_path, RunImages, "Put it back from a copy of the run.")
    except FileNotFoundError:
        return None


def _unreadable(run: Run) -> int:
    try:
        found = read_lines(run.unreadable_path, UnreadableRecord, "Remove the line.")
    except FileNotFoundError:
        return 0
    return len({record.image for record in found})


def _networks(run: Run) -> list[NetworkFacts]:
    import torch

    found = []
    for which in ("best", "last"):
        path = run.network(which)
        if not path.is_file():
            continue
        spec = read_network_spec(path)
        try:
            with torch.device("meta"):
                parameters = count_parameters(build_segmenter(spec))
        except ProtosegError:
            parameters = None
        kind: Literal["best", "last"] = "best" if which == "best" else "last"
        found.append(NetworkFacts(kind, path, file_sha256(path), path.stat().st_size, spec.provenance, parameters))
    return found
