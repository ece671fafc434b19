"""``protoseg predict`` for very many images: in shards, by worker processes or a Ray cluster."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from protoseg_deploy.cli.arguments import (
    LOCATION,
    RuntimeArgument,
    describe_runtime,
    note,
    note_fixed_size,
    note_verification,
    print_json,
    progress_bar,
)

if TYPE_CHECKING:
    from protoseg_deploy.evaluation.shards.predicting import Engine, ShardedPrediction
    from protoseg_deploy.runtimes.base import RuntimeInfo


@dataclass(frozen=True)
class ShardOptions:
    """The options of the sharded form, as given."""

    manifest: str | None
    shards: int | None
    pack: bool
    engine: str | None
    address: str | None
    workers: int | None

    @property
    def is_given(self) -> bool:
        """Whether the sharded form is asked for."""
        return self.manifest is not None or self.shards is not None or self.engine is not None or self.pack

    def refuse_alone(self, inputs: tuple[str, ...], out: str) -> None:
        """In the plain form.

        Raises:
            click.UsageError: no images are given, or what only the sharded form can do.
        """
        if not inputs:
            raise click.UsageError("Missing argument 'IMAGES...': images or folders, --images or --manifest.")
        for option, value in (("--workers", self.workers), ("--address", self.address)):
            if value is not None:
                raise click.UsageError(f"{option} is for prediction in shards: add --shards N or --engine.")
        for location in (*inputs, out):
            if "://" in location:
                raise click.UsageError(f"{location} is for prediction in shards: add --shards N or --engine local.")


_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option(
        "--manifest",
        type=LOCATION,
        help="In shards: file that names the images: one per line, or .csv, .jsonl or .parquet with a column `image`.",
    ),
    click.option(
        "--shards",
        type=click.IntRange(min=1),
        metavar="N",
        help="In shards: how many.  [default: of about a thousand images]",
    ),
    click.option("--pack", is_flag=True, help="In shards: one WebDataset tar of masks per shard instead of PNGs."),
    click.option(
        "--engine",
        type=click.Choice(["local", "ray"]),
        help="In shards: processes on this machine, or a Ray cluster.  [default: local]",
    ),
    click.option("--address", help="With --engine ray: address of the cluster.  [default: one on this machine]"),
    click.option(
        "--workers",
        type=click.IntRange(min=0),
        metavar="N",
        help="In shards: worker processes; 0: this process.  [default: one per core]",
    ),
)


def shard_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the sharded form; the function gets them as ``shard_options``."""

    @functools.wraps(function)
    def gathered(**given: Any) -> Any:
        names = ShardOptions.__dataclass_fields__
        options = ShardOptions(**{name: given.pop(name) for name in names})
        return function(shard_options=options, **given)

    for option in reversed(_OPTIONS):
        option(gathered)
    return gathered


def predict_in_shards(
    argument: RuntimeArgument,
    device: str,
    which: str,
    inputs: tuple[str, ...],
    out: str,
    tile: tuple[int, int] | None,
    overlap: int | None,
    batch: int,
    options: ShardOptions,
    as_json: bool,
) -> None:
    """Predict, show what was done, and raise where images have failed.

    Raises:
        DataError: images could not be predicted; the first few are named.
        ProtosegError: see `predict_sharded`.
    """
    from protoseg_deploy.evaluation.shards.predicting import Workforce, predict_sharded
    from protoseg_deploy.evaluation.shards.spec import RuntimeChoice
    from protoseg_deploy.time_limit import current_limit

    if not inputs and options.manifest is None:
        raise click.UsageError("Missing images: give IMAGES, --images DIR or --manifest FILE.")
    path = argument.path if isinstance(argument.path, str) else str(argument.path.absolute())
    runtime = RuntimeChoice(path, argument.precision, argument.backend, device, which)
    info = runtime.open(threads=1).info
    note_verification(info)
    note_fixed_size(info, tile)
    engine = cast("Engine", options.engine or "local")
    workforce = Workforce(engine, options.address, options.workers, current_limit())
    try:
        with progress_bar("predicting", hidden=as_json) as progress:
            result = predict_sharded(
                runtime,
                info,
                inputs,
                out,
                manifest=options.manifest,
                shards=options.shards,
                tile=tile,
                overlap=overlap,
                batch=batch,
                pack=options.pack,
                workforce=workforce,
                progress=progress,
            )
    except KeyboardInterrupt:
        note("interrupted; finished shards are kept: the same command resumes from there.")
        raise
    _note_unread(inputs, out)
    if as_json:
        print_json(_document(info, result, engine))
    else:
        _show(result)
    _require_success(result)


def _note_unread(inputs: tuple[str, ...], out: str) -> None:
    from protoseg_deploy.evaluation.prediction_plan import find_unread

    for folder, unread in find_unread([Path(given) for given in inputs if "://" not in given], Path(out)):
        note(f"{folder}: {unread.text}")


def _document(info: "RuntimeInfo", result: "ShardedPrediction", engine: str) -> dict[str, object]:
    return {
        **describe_runtime(info),
        "out": result.out,
        "masks": result.masks,
        "results": result.results,
        "tile_px": result.tiling.tile,
        "overlap_px": result.tiling.overlap,
        "engine": engine,
        "workers": result.workers,
        "shards": result.plan.shards,
        "shards_done_before": result.resumed,
        "images": result.plan.images,
        "predicted": result.images,
        "failed": result.failed,
        "first_failures": result.failures,
        "class_pixels": dict(zip(info.classes.names, result.class_pixels, strict=True)),
        "seconds": result.seconds,
    }


def _show(result: "ShardedPrediction") -> None:
    plan, before = result.plan, ""
    if result.resumed:
        before = f" ({result.resumed} of {plan.shards} shards had been done before)"
    click.echo(
        f"{result.images:,} of {plan.images:,} images in {result.seconds:.1f} s{before}: "
        f"{result.masks}, rows in {result.results}"
    )


def _require_success(result: "ShardedPrediction") -> None:
    from protoseg_deploy.errors import DataError

    if not result.failed:
        return
    more = result.failed - len(result.failures)
    reasons = [*result.failures, *([f"… and {more:,} more"] if more else [])]
    raise DataError(
        f"{result.failed:,} of {result.plan.images:,} images could not be predicted:",
        reasons,
        f"{result.results} lists all of them: column status, kind and reason. To try those of a shard again, remove "
        "its file there and repeat the command.",
        shown=len(reasons),
    )
