"""Measuring for commands that show latency and accuracy."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from protoseg_deploy.benchmarking.accuracy import Accuracy, measure_accuracy
from protoseg_deploy.benchmarking.inputs import ImageBatch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.latency_report import Opening
from protoseg_deploy.benchmarking.memory import resident_bytes
from protoseg_deploy.benchmarking.rows import CONDITIONS
from protoseg_deploy.cli.arguments import RuntimeArgument, height_and_width, progress_bar
from protoseg_deploy.cli.bench_card import Row
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.samples import folder_samples
from protoseg_deploy.runtimes.base import Runtime, artefact_sha256

_MOST = 65_536


def sweep_points(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Every combination of what is varied, the last one quickest; one without anything where nothing is.

    Args:
        texts: ``batch=1,2,4``, ``size=256,512x1024``, ``threads=1,2``, ``cuda_graph=on,off``.

    Raises:
        UsageError: another key, a key or a value twice, or a value that is none.
    """
    values: dict[str, list[Any]] = {}
    for text in texts:
        key, _, listed = text.partition("=")
        if key not in CONDITIONS or key in values:
            reason = "is given twice" if key in values else f"does not begin with one of {', '.join(CONDITIONS)}"
            raise UsageError(f"--sweep {text} {reason}", "For example --sweep batch=1,2,4 size=256,512 threads=1,2")
        try:
            values[key] = [_condition(key, value) for value in listed.split(",")]
        except (ValueError, KeyError, click.BadParameter):
            raise UsageError(
                f"--sweep {text}: not a list of values that {key} takes",
                "For example batch=1,2,4, size=256,512x1024, threads=1,2 or cuda_graph=on,off",
            ) from None
        if len(set(values[key])) < len(values[key]):
            raise UsageError(f"--sweep {text} names a value twice", "Each combination is measured once.")
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def known_before(
    texts: Sequence[str], points: Sequence[dict[str, Any]], common: dict[str, Any]
) -> list[dict[str, Any]]:
    """What is known of each measurement before it is made, as fields of a `MeasuredRow`.

    Args:
        texts: RUNTIMEs.
        points: see `sweep_points`.
        common: ``batch``, ``size`` and ``threads`` of all points that do not vary them; None: not known.
    """
    known = []
    for point, text in itertools.product(points, texts):
        wanted = {**common, **point}
        height, width = wanted["size"] or (None, None)
        fields = {"batch": wanted["batch"], "height": height, "width": width, "threads": wanted["threads"]}
        known.append({"runtime": text, **{key: value for key, value in fields.items() if value is not None}})
    return known


def is_sweep(text: str) -> bool:
    """Whether a text says what to vary."""
    return text.partition("=")[0] in CONDITIONS and "=" in text


def _condition(key: str, text: str) -> Any:
    if key == "size":
        return height_and_width(text)
    if key == "cuda_graph":
        return {"on": True, "off": False}[text]
    if not text.isdecimal() or not 0 < int(text) <= _MOST:
        raise ValueError(text)
    return int(text)


def judging_samples(images: Path | None, masks: Path | None, mask_template: str) -> Sequence[Sample]:
    """Images with their masks to judge runtimes by; none without masks.

    Raises:
        ProtosegError: as `folder_samples`.
    """
    return [] if images is None or masks is None else folder_samples(images, masks, mask_template)


def judged(runtimes: Sequence[Runtime], samples: Sequence[Sample], *, quiet: bool) -> Sequence[Accuracy | None]:
    """Accuracy of each runtime on images with masks; None for each where there are none."""
    if not samples:
        return [None] * len(runtimes)
    with progress_bar("evaluating", hidden=quiet) as progress:
        return measure_accuracy(runtimes, samples, progress=progress)


@dataclass(frozen=True)
class Opened:
    """A runtime that was named on a command line."""

    text: str
    runtime: Runtime
    opening: Opening


def opened(argument: RuntimeArgument, **options: Any) -> Opened:
    """Open a runtime; see `RuntimeArgument.open`."""
    memory, begin = resident_bytes(), time.perf_counter()
    runtime = argument.open(**options)
    load_ms = 1000 * (time.perf_counter() - begin)
    return Opened(argument.text, runtime, Opening(load_ms, max(0, resident_bytes() - memory)))


def measured(
    every: Sequence[Opened],
    images: Path | None,
    *,
    size: tuple[int, int] | None,
    batch: int = 1,
    runs: int | None = None,
    seconds: float | None = None,
    energy: bool = False,
) -> list[Row]:
    """Latency of each runtime; rows without accuracy.

    Args:
        every: what to measure.
        images: folder of the images to measure with; None: random noise.
        size: height and width to resize them to; None: as the first one is.
        batch: images of a call.
        runs: see `measure_interleaved`.
        seconds: likewise.
        energy: likewise.
    """
    runtimes = [one.runtime for one in every]
    source = None
    if images is not None:
        size = size or next((runtime.info.fixed_size for runtime in runtimes if runtime.info.fixed_size), None)
        source = ImageBatch(images, batch, runtimes[0].info.reading, size)
    reports = measure_interleaved(
        runtimes,
        batch=batch,
        size=size,
        runs=runs,
        seconds=seconds,
        images=source.read() if source else None,
        read=source.read if source else None,
        openings=[one.opening for one in every],
        energy=energy,
    )
    return [
        Row(one.text, artefact_sha256(one.runtime.info), report) for one, report in zip(every, reports, strict=True)
    ]
