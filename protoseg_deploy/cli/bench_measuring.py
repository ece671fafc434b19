"""Measuring for commands that show latency and accuracy."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protoseg_deploy.benchmarking.accuracy import Accuracy, measure_accuracy
from protoseg_deploy.benchmarking.inputs import read_batch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.cli.arguments import progress_bar
from protoseg_deploy.cli.bench_output import Row
from protoseg_deploy.evaluation.samples import folder_samples
from protoseg_deploy.runtimes.base import Runtime, artefact_sha256


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
    size: tuple[int, int] | None,
    options: dict[str, Any],
) -> list[Row]:
    """Latency of each runtime, with its accuracy.

    Args:
        texts: of the runtimes, as on the command line.
        runtimes: what to measure.
        accuracies: see `judged`.
        images: folder of the images to measure with; None: random noise.
        size: to resize them to.
        options: `batch`, `runs`, `seconds`.
    """
    batch = options["batch"]
    if images is not None:
        size = size or next((runtime.info.fixed_size for runtime in runtimes if runtime.info.fixed_size), None)
    pictures = None if images is None else read_batch(images, batch, runtimes[0].info.reading, size)
    digests = [artefact_sha256(runtime.info) for runtime in runtimes]
    reports = measure_interleaved(
        runtimes, batch=batch, size=size, runs=options["runs"], seconds=options["seconds"], images=pictures
    )
    return [Row(*parts) for parts in zip(texts, digests, reports, accuracies, strict=True)]
