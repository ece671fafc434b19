"""Measuring for commands that show latency and accuracy."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from protoseg_deploy.benchmarking.accuracy import Accuracy, measure_accuracy
from protoseg_deploy.benchmarking.inputs import read_batch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.rows import CONDITIONS
from protoseg_deploy.cli.arguments import height_and_width, progress_bar
from protoseg_deploy.cli.bench_output import Row
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.samples import folder_samples
from protoseg_deploy.runtimes.base import Runtime, artefact_sha256

_MOST = 65_536


def sweep_points(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of what is varied, the last one quickest; one without anything where nothing is.

    Args:
        texts: ``batch=1,2,4``, ``size=256,512x1024``, ``threads=1,2``.

    Raises:
        UsageError: another key, a key twice, or a value that is none.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        if key not in CONDITIONS or key in values:
            reason = "is given twice" if key in values else f"does not begin with one of {', '.join(CONDITIONS)}"
            raise UsageError(f"--sweep {text} {reason}", "For example --sweep batch=1,2,4 size=256,512 threads=1,2")
        try:
            values[key] = [_condition(key, value) for value in listed.split(",")]
        except (ValueError, click.BadParameter):
            raise UsageError(
                f"--sweep {text}: not a list of values above 0", "For example batch=1,2,4 or size=256,512x1024"
            ) from None
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def is_sweep(text: str) -> bool:
    """Whether a text says what to vary."""
    return text.partition("=")[0] in CONDITIONS and "=" in text


def _condition(key: str, text: str) -> Any:
    if key == "size":
        return height_and_width(text)
    if not text.isdecimal() or not 0 < int(text) <= _MOST:
        raise ValueError(text)
    return int(text)


def judged(
    runtimes: Sequence[Runtime], images: Path | None, masks: Path | None, mask_template: str, *, quiet: bool
) -> Sequence[Accuracy | None]:
    """Accuracy of each runtime on images with masks; without masks None for each."""
    if images is None or masks is None or not runtimes:
        return [None] * len(runtimes)
    samples = folder_samples(images, masks, mask_template)
    with progress_bar("evaluating", hidden=quiet) as progress:
        return measure_accuracy(runtimes, samples, progress=progress)


def measured(
    texts: Sequence[str],
    runtimes: Sequence[Runtime],
    accuracies: Sequence[Accuracy | None],
    images: Path | None,
    *,
    size: tuple[int, int] | None,
    batch: int = 1,
    runs: int | None = None,
    seconds: float | None = None,
) -> list[Row]:
    """Latency of each runtime, with its accuracy.

    Args:
        texts: of the runtimes, as on the command line.
        runtimes: what to measure.
        accuracies: see `judged`.
        images: folder of the images to measure with; None: random noise.
        size: height and width to resize them to; None: as the first one is.
        batch: images of a call.
        runs: see `measure_interleaved`.
        seconds: likewise.
    """
    if images is not None:
        size = size or next((runtime.info.fixed_size for runtime in runtimes if runtime.info.fixed_size), None)
    pictures = None if images is None else read_batch(images, batch, runtimes[0].info.reading, size)
    digests = [artefact_sha256(runtime.info) for runtime in runtimes]
    reports = measure_interleaved(runtimes, batch=batch, size=size, runs=runs, seconds=seconds, images=pictures)
    return [Row(*parts) for parts in zip(texts, digests, reports, accuracies, strict=True)]
