"""``protoseg predict --format``: class maps as pre-annotations of labelling tools."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from protoseg_deploy.choices import PRE_ANNOTATION_FORMATS
from protoseg_deploy.cli.arguments import Number, progress_bar

if TYPE_CHECKING:
    from protoseg_deploy.evaluation.prediction import Prediction
    from protoseg_deploy.runtimes.base import RuntimeInfo

_DEFAULT_TOLERANCE_PX = 1.0
_DEFAULT_AREA_PX = 16


@dataclass(frozen=True)
class AnnotationOptions:
    """The options of pre-annotations, as given."""

    annotation_format: str | None
    tolerance: float | None
    min_area: int | None

    def refuse_in_shards(self) -> None:
        """In the sharded form.

        Raises:
            click.UsageError: any is given.
        """
        if self.annotation_format is not None:
            raise click.UsageError("--format does not apply in shards: predict without --shards and --engine.")
        self.refuse_alone()

    def refuse_alone(self) -> None:
        """Without a format.

        Raises:
            click.UsageError: another option is given.
        """
        for option, value in (("--tolerance", self.tolerance), ("--min-area", self.min_area)):
            if value is not None and self.annotation_format is None:
                raise click.UsageError(f"{option} is for pre-annotations: add --format.")


@dataclass(frozen=True)
class PreAnnotations:
    """What was written."""

    format: str
    path: Path
    regions: int
    left_out: int
    tolerance_px: float
    min_area_px: int

    @property
    def text(self) -> str:
        """For people."""
        small = f"; {self.left_out:,} below {self.min_area_px} pixels were left out" if self.left_out else ""
        return f"{self.regions:,} regions: {self.path} (tolerance {self.tolerance_px:g} px{small})"

    def as_document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "format": self.format,
            "path": str(self.path),
            "regions": self.regions,
            "regions_left_out": self.left_out,
            "tolerance_px": self.tolerance_px,
            "min_area_px": self.min_area_px,
        }


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--format",
        "annotation_format",
        type=click.Choice(PRE_ANNOTATION_FORMATS),
        help="Also write pre-annotations of this format to OUT/annotations.",
    ),
    click.option(
        "--tolerance",
        type=Number(min=0, max=1000),
        metavar="PIXELS",
        help=f"With --format: largest distance of a polygon from the border of its region; 0: exact.  "
        f"[default: {_DEFAULT_TOLERANCE_PX:g}]",
    ),
    click.option(
        "--min-area",
        type=click.IntRange(min=0),
        metavar="PIXELS",
        help=f"With --format: leave out smaller regions.  [default: {_DEFAULT_AREA_PX}]",
    ),
)


def annotation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of pre-annotations; the function gets them as ``annotation_options``."""

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        names = AnnotationOptions.__dataclass_fields__
        options = AnnotationOptions(**{name: given.pop(name) for name in names})
        options.refuse_alone()
        return function(annotation_options=options, **given)

    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered


def pre_annotate(
    options: AnnotationOptions, info: "RuntimeInfo", out: Path, result: "Prediction", *, hidden: bool
) -> PreAnnotations | None:
    """Write pre-annotations of all images that were predicted, now or before; None without a format.

    Raises:
        ProtosegError: see `write_annotations`.
    """
    from protoseg_deploy.annotations.writing import Predicted, Task, write_annotations

    if options.annotation_format is None:
        return None
    names = [done.index.relative_to(out / "index") for done in result.images]
    images = [
        Predicted(done.image, name.with_name(done.image.name), done.index, name)
        for done, name in zip(result.images, names, strict=True)
    ]
    tolerance = _DEFAULT_TOLERANCE_PX if options.tolerance is None else options.tolerance
    min_area = _DEFAULT_AREA_PX if options.min_area is None else options.min_area
    task = Task(info.classes, tolerance, min_area)
    with progress_bar("annotating", hidden=hidden) as progress:
        written = write_annotations(
            options.annotation_format, images, out, task, lambda done: progress(done, len(images))
        )
    return PreAnnotations(
        options.annotation_format, written.path, written.regions, written.left_out, tolerance, min_area
    )
