"""Annotations of a tool to index masks, a list and a report: the whole of ``protoseg convert``."""

import functools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.annotations.class_plan import IGNORE, ClassPlan, check_priority, plan_classes
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.formats import open_source
from protoseg_deploy.annotations.image_work import Made, Settings, make_mask
from protoseg_deploy.annotations.mask_names import MaskNames
from protoseg_deploy.annotations.report import CLASSES, LIST, MASKS, REPORT, ReportWriter
from protoseg_deploy.annotations.shapes import BadRecordError, DeclaredClass, FoundImage, Kind, Problem
from protoseg_deploy.annotations.source import Job, Source
from protoseg_deploy.annotations.workers import in_order, worker_count
from protoseg_deploy.documents import dump_document
from protoseg_deploy.errors import UsageError, WriteError
from protoseg_deploy.files import remove_scratch, require_inside, write_atomically
from protoseg_deploy.locks import sole_writer
from protoseg_deploy.recipe.types import ExifPolicy

_MADE_BY = "protoseg convert"
_SCRATCH = ".convert.scratch"


@dataclass(frozen=True)
class Choices:
    """What a caller may say of a conversion; see the options of the command."""

    format: str | None = None
    images: Path | None = None
    classes: tuple[DeclaredClass, ...] | None = None
    ignored: tuple[str, ...] = ()
    unlabeled: str | None = None
    priority: tuple[str, ...] = ()
    exif: ExifPolicy = "apply"
    skip_existing: bool = False
    keeps_crowds: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class Conversion:
    """Result of `convert`."""

    format: str
    plan: ClassPlan
    order: str
    masks: int
    skipped: int
    """Masks that had been made before."""
    overlaps: int
    """Masks in which the order of overlaps decided."""
    class_pixels: Mapping[int, int]
    class_images: Mapping[int, int]
    """Masks by the indices that occur in them."""
    records: Mapping[Kind, int]
    first_bad: tuple[Problem, ...]
    seconds: float


def convert(
    path: Path, out: Path, choices: Choices, progress: Callable[[int, int], object] | None = None
) -> Conversion:
    """Write ``out/masks``, ``out/classes.json``, ``out/labeled.txt`` and ``out/report.json``.

    Images are read for their size and not copied; the list refers to them where they are. A record that cannot be used
    does not keep the others from being converted. What every image would meet, such as a full disk, ends the call;
    masks made before stay.

    Args:
        path: a file or folder of annotations.
        out: made if missing.
        choices: format, folder of images, classes, order of overlaps.
        progress: called with (images done, images in all, as far as known).

    Raises:
        UsageError: an unknown or ambiguous format, classes or priority that do not fit, or `out` holds other files.
        DataError: the annotations as a whole cannot be read.
        WriteError: the output cannot be written.
    """
    begin = time.perf_counter()
    if choices.images is not None and not choices.images.is_dir():
        raise UsageError(f"--images: no such folder: {choices.images}")
    with _opened(path, out, choices) as source, _output(out) as scratch:
        roots = (choices.images,) if choices.images is not None else source.image_roots
        finder = ImageFinder(tuple(dict.fromkeys(roots)), choices.exif)
        workers = worker_count(choices.workers, source.total)
        found = _labels(source, workers) if choices.classes is None and source.classes is None else set()
        plan = plan_classes(source, found, given=choices.classes, ignored=choices.ignored, unlabeled=choices.unlabeled)
        check_priority(choices.priority, plan)
        declared = tuple(one.name for one in source.classes or ())
        options = (choices.priority, finder, choices.skip_existing, choices.keeps_crowds)
        settings = Settings(plan, source.order, *options, declared)
        write_atomically(out / CLASSES, dump_document(_classes_document(plan)) + b"\n")
        report = ReportWriter(out, scratch)
        try:
            tally = _Tally()
            jobs = _named_jobs(source, finder, out, report, tally)
            work = functools.partial(_make, settings=settings)
            for pair, made in in_order(work, jobs, workers):
                tally.take(made)
                for problem in made.problems:
                    report.add(problem)
                if made.mark is not None:
                    report.pair(*pair)
                if progress is not None:
                    progress(tally.done, max(tally.done, source.total or 0))
            conversion = tally.result(source, plan, report, time.perf_counter() - begin)
            report.finish(_facts(path, conversion))
        finally:
            report.close()
    return conversion


def _opened(path: Path, out: Path, choices: Choices) -> AbstractContextManager[Source]:
    return open_source(path, choices.format, choices.images, choices.classes, out)


def _labels(source: Source, workers: int) -> set[str]:
    found: set[str] = set()
    jobs = (job for job in source.jobs() if isinstance(job, Job))
    for labels in in_order(_labels_of, jobs, workers):
        found |= labels
    return found


def _labels_of(job: Job) -> set[str]:
    return job.labels()


@dataclass(frozen=True)
class _Named:
    job: Job
    found: FoundImage
    target: Path


def _make(named: _Named, settings: Settings) -> tuple[tuple[Path, Path], Made]:
    return (named.found.path, named.target), make_mask(named.job, named.found, named.target, settings)


def _named_jobs(
    source: Source, finder: ImageFinder, out: Path, report: ReportWriter, tally: "_Tally"
) -> Iterator[_Named]:
    """Jobs whose image is there, each with the place of its mask; the others go to the report."""
    names, images = MaskNames(), set[str]()
    for job in source.jobs():
        if isinstance(job, Problem):
            report.add(job)
            continue
        try:
            found = job.locate(finder)
            if (key := str(found.path)) in images:
                raise BadRecordError(f"{found.path} is annotated more than once; the first annotation is kept")
        except BadRecordError as error:
            tally.done += 1
            report.add(Problem("bad", str(job.file), "", str(error), job.name))
            continue
        images.add(key)
        target = out / MASKS / names.of(found.relative)
        require_inside(out, target)
        yield _Named(job, found, target)


class _Tally:
    """Counts as images come."""

    def __init__(self) -> None:
        self.done = self._masks = self._skipped = self._overlaps = 0
        self._pixels: Counter[int] = Counter()
        self._images: Counter[int] = Counter()

    def take(self, made: Made) -> None:
        self.done += 1
        if made.mark is not None:
            self._masks += 1
            self._skipped += made.is_skipped
            self._overlaps += made.mark.has_overlaps
            self._pixels.update(made.mark.class_pixels)
            self._images.update(made.mark.class_pixels.keys())

    def result(self, source: Source, plan: ClassPlan, report: ReportWriter, seconds: float) -> Conversion:
        counts = (self._masks, self._skipped, self._overlaps, self._pixels, self._images)
        bad = tuple(report.first_bad)
        return Conversion(source.format, plan, source.order, *counts, dict(report.counts), bad, seconds)


@contextmanager
def _output(out: Path) -> Iterator[Path]:
    """A folder for this process alone; gives one in it for unfinished files."""
    _refuse_foreign(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(out, error) from None
    with sole_writer(out / ".convert.lock", str(out)):
        scratch = out / _SCRATCH
        require_inside(out, scratch)
        require_inside(out, out / MASKS)
        try:
            scratch.mkdir(exist_ok=True)
            remove_scratch(out)
            yield scratch
        except OSError as error:
            raise WriteError(Path(error.filename or out), error) from None
        finally:
            for name in ("problems", "list"):
                (scratch / name).unlink(missing_ok=True)
            if scratch.is_dir() and not any(scratch.iterdir()):
                scratch.rmdir()


def _refuse_foreign(out: Path) -> None:
    """Files with our names that say nothing of us are someone's."""
    there = [out / name for name in (CLASSES, REPORT, LIST) if (out / name).exists()]
    if there and f'"{_MADE_BY}"'.encode() not in _head(out / CLASSES):
        raise UsageError(
            f"{there[0]} was not written by convert: it would be replaced",
            "Choose another --out; nothing was written.",
        )


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4096)
    except OSError:
        return b""


def _classes_document(plan: ClassPlan) -> dict[str, object]:
    document: dict[str, object] = {"made_by": _MADE_BY, "names": list(plan.names)}
    return document | ({"colors": [list(color) for color in plan.colors]} if plan.colors else {})


def _facts(path: Path, conversion: Conversion) -> dict[str, object]:
    names: Sequence[str] = conversion.plan.names
    return {
        "made_by": _MADE_BY,
        "source": str(path),
        "format": conversion.format,
        "overlap_order": conversion.order,
        "masks": conversion.masks,
        "masks_with_overlaps": conversion.overlaps,
        "classes": [
            {
                "name": name,
                "pixels": conversion.class_pixels.get(index, 0),
                "masks": conversion.class_images.get(index, 0),
            }
            for index, name in enumerate(names)
        ],
        "ignored_pixels": conversion.class_pixels.get(IGNORE, 0),
    }
