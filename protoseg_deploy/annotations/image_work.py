"""One image of a conversion: read, drawn, checked against its image file, written. Runs in worker processes."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy import __version__
from protoseg_deploy.annotations.class_plan import IGNORE, ClassPlan
from protoseg_deploy.annotations.drawing import Drawn, draw_mask
from protoseg_deploy.annotations.finding_images import ImageFinder
from protoseg_deploy.annotations.marks import Mark, read_mark
from protoseg_deploy.annotations.shapes import BadRecordError, FoundImage, Notes, Problem, Shape
from protoseg_deploy.annotations.source import Job, Order
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.files import write_atomically


@dataclass(frozen=True)
class Settings:
    """What is the same for every image."""

    plan: ClassPlan
    order: Order
    priority: tuple[str, ...]
    finder: ImageFinder
    skip_existing: bool
    keeps_crowds: bool
    """Crowds are drawn as their class."""
    declared: tuple[str, ...]
    """Classes of a source of masks, in the order of its indices."""

    def made_from(self, job: Job, found: FoundImage) -> str:
        """Digest of all that changes a mask.

        Raises:
            OSError: the annotations or the image are gone.
        """
        status = found.path.stat()
        image = (str(found.path), status.st_size, status.st_mtime_ns)
        plan = (self.plan.names, sorted(self.plan.ignored), self.plan.unlabeled, self.declared)
        settings = (__version__, plan, self.order, self.priority, self.keeps_crowds, self.finder.exif, image)
        return hashlib.sha256(repr(settings).encode(errors="surrogateescape") + job.fingerprint()).hexdigest()


@dataclass(frozen=True)
class Made:
    """What became of one image."""

    problems: tuple[Problem, ...]
    mark: Mark | None = None
    """None where there is no mask."""
    is_skipped: bool = False


def make_mask(job: Job, found: FoundImage, target: Path, settings: Settings) -> Made:
    """Write the mask of one image.

    Raises:
        UsageError: a file that this program did not write has its name.
        WriteError: it cannot be written.
    """
    notes = Notes(str(job.file), job.name)
    try:
        there = read_mark(target)
        if there is None and target.exists():
            raise UsageError(
                f"{target} was not written by convert: it would be replaced",
                "Choose another --out; nothing was replaced.",
            )
        digest = settings.made_from(job, found)
        if settings.skip_existing and there is not None and there.made_from == digest:
            return Made(there.problems, there, is_skipped=True)
        drawn = _draw(job, found, settings, notes)
    except (BadRecordError, DataError) as error:
        message = error.message if isinstance(error, DataError) else str(error)
        notes.add("bad", "", message)
        return Made(tuple(notes.problems))
    except RecursionError:
        notes.add("bad", "", "nested too deeply")
        return Made(tuple(notes.problems))
    except MemoryError:
        notes.add("bad", "", "too large for the memory")
        return Made(tuple(notes.problems))
    except OSError as error:
        notes.add("bad", "", f"cannot be read: {error.strerror or error}")
        return Made(tuple(notes.problems))
    pixels = np.bincount(drawn.mask.ravel(), minlength=256)
    counts = {int(index): int(pixels[index]) for index in np.flatnonzero(pixels)}
    mark = Mark(digest, counts, drawn.has_overlaps, tuple(notes.problems))
    picture = Image.fromarray(drawn.mask)
    write_atomically(target, lambda file: picture.save(file, "PNG", compress_level=1, pnginfo=mark.chunk()), sync=False)
    return Made(tuple(notes.problems), mark)


def _crowds_settled(shapes: Iterable[Shape], settings: Settings, notes: Notes) -> Iterator[Shape]:
    for shape in shapes:
        if shape.is_crowd and settings.keeps_crowds:
            yield replace(shape, is_crowd=False)
            continue
        if shape.is_crowd:
            notes.add("changed", shape.record, "a crowd: its pixels are 255 unless --crowd class is given")
        yield shape


def _draw(job: Job, found: FoundImage, settings: Settings, notes: Notes) -> Drawn:
    annotated = job.read(found, settings.finder, notes)
    settings.finder.require_size(found, annotated.size)
    if annotated.mask is None:
        annotated = replace(annotated, shapes=tuple(_crowds_settled(annotated.shapes, settings, notes)))
        return draw_mask(annotated, settings.plan, settings.order, settings.priority, notes)
    table = np.full(256, IGNORE, dtype=np.uint8)
    unknown = []
    for number, name in enumerate(settings.declared):
        index = settings.plan.index(name)
        if index is None:
            unknown.append(number)
        else:
            table[number] = index
    for number in np.intersect1d(annotated.mask, unknown).tolist():
        notes.add("bad", f"class {settings.declared[number]}", "is none of --classes: its pixels are 255")
    return Drawn(np.take(table, annotated.mask), has_overlaps=False)
