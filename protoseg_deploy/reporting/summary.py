"""What a report says first: three sentences, and the figures of its runs and bundles side by side."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from protoseg_deploy.reporting.facts import BundleFacts, RunFacts
from protoseg_deploy.reporting.figures import count, counted, duration, listed, percent, points
from protoseg_deploy.reporting.findings import Findings

WEAK_PERCENT = 50.0
"""Below this IoU a class is called weak."""


@dataclass(frozen=True)
class Row:
    """A line of the table that compares runs and bundles."""

    label: str
    cells: tuple[str, ...]
    best: frozenset[int]
    """Columns with the best value, where there are several to choose from."""
    differs: bool
    number: bool = True


def sentences(findings: Findings) -> list[str]:
    """What it is, how good it is, and whether it may be used: three sentences."""
    runs, bundles = findings.runs, findings.bundles
    if len(findings.names) > 1:
        return [_what_they_are(findings), _how_they_compare(findings), _how_deployed(findings)]
    if runs:
        return [_what_it_is(runs[0]), _how_good(findings, runs[0].name), _how_deployed(findings)]
    if bundles:
        return [_what_the_bundle_is(bundles[0]), _how_good(findings, bundles[0].name), _how_deployed(findings)]
    return [f"This report shows {counted(len(findings.bench.rows), 'measured runtime')}.", _how_fast(findings), ""]


def _what_it_is(run: RunFacts) -> str:
    model, images = run.recipe.model, run.images
    seen = ""
    if images is not None:
        seen = f" on {counted(images.labelled.count, 'labelled image')}"
        if images.unlabelled.count:
            seen += f" and {counted(images.unlabelled.count, 'unlabelled image')}"
    done = f"{run.steps:,} steps" if run.finished else f"{run.step:,} of {run.steps:,} steps so far"
    return (
        f"{run.name} segments {len(run.classes)} classes with the backbone {model.backbone} and the decoder "
        f"{model.decoder}, trained by the method {method_of(run)}{seen} for {done}."
    )


def method_of(run: RunFacts) -> str:
    """Name of the method; a distilled student's recipe still names its teacher's."""
    said = (run.summary or {}).get("method")
    said = said or next((network.provenance.get("method") for network in run.networks), None)
    return str(said or run.recipe.method.name)


def _what_the_bundle_is(bundle: BundleFacts) -> str:
    network = bundle.manifest.network
    return (
        f"{bundle.name} is a bundle of {listed(list(bundle.manifest.graphs))} for "
        f"{len(bundle.manifest.classes.names)} classes, made from the run {bundle.manifest.provenance.run} "
        f"({network.backbone} with {network.decoder}, {network.parameters:,} parameters)."
    )


def _how_good(findings: Findings, name: str) -> str:
    miou, ious = findings.miou_of(name), findings.iou_of(name)
    if miou is None:
        return "Nobody has measured its accuracy yet."
    text = f"It reaches a mean IoU of {percent(miou)} % on the validation images"
    known = {label: iou for label, iou in (ious or {}).items() if iou is not None}
    if len(known) > 1:
        best, worst = max(known, key=lambda label: known[label]), min(known, key=lambda label: known[label])
        text += f", from {percent(known[best])} % for {best} to {percent(known[worst])} % for {worst}"
    return text + "."


def _what_they_are(findings: Findings) -> str:
    parts = [counted(len(findings.runs), "run")] if findings.runs else []
    parts += [counted(len(findings.bundles), "bundle")] if findings.bundles else []
    classes = findings.classes
    same = all(
        table == classes.names
        for table in [
            *(run.classes.names for run in findings.runs),
            *(bundle.manifest.classes.names for bundle in findings.bundles),
        ]
    ) if classes else False  # fmt: skip
    what = f" of the same {len(classes)} classes" if classes and same else ", whose classes differ"
    return f"This report compares {listed(parts)}{what}: {listed(list(findings.names))}."


def _how_they_compare(findings: Findings) -> str:
    known = {name: miou for name in findings.names if (miou := findings.miou_of(name)) is not None}
    if not known:
        return "Nobody has measured their accuracy yet."
    best, worst = max(known, key=lambda name: known[name]), min(known, key=lambda name: known[name])
    text = f"{best} is the most accurate with a mean IoU of {percent(known[best])} %"
    if best != worst:
        text += f", {percent(known[best] - known[worst])} points above {worst}"
    return text + "."


def _how_deployed(findings: Findings) -> str:
    if not findings.bundles:
        unfinished = [run.name for run in findings.runs if not run.finished]
        if unfinished:
            return f"{listed(unfinished)} {'is' if len(unfinished) == 1 else 'are'} not finished: figures will change."
        return f"No bundle is part of this report{_and_speed(findings)}: nothing is said about exported files."
    verdicts = {bundle.name: bundle.verified for bundle in findings.bundles}
    failed = [name for name, verdict in verdicts.items() if verdict is False]
    unknown = [name for name, verdict in verdicts.items() if verdict is None]
    if failed:
        return f"{listed(failed)} FAILED verification and should not be deployed{_and_speed(findings)}."
    if unknown:
        return f"{listed(unknown)} {'is' if len(unknown) == 1 else 'are'} not fully verified{_and_speed(findings)}."
    images = max(bundle.manifest.verification.images for bundle in findings.bundles if bundle.manifest.verification)
    drops = [stage.miou_drop_points or 0.0 for bundle in findings.bundles for stage in bundle.stages]
    return (
        f"All graphs of {listed(list(verdicts))} were verified on {counted(images, 'image')} and lose at most "
        f"{percent(max(0.0, *drops, 0.0), 2)} points of mIoU{_and_speed(findings)}."
    )


def _and_speed(findings: Findings) -> str:
    return f", and {text[0].lower()}{text[1:-1]}" if (text := _how_fast(findings)) else ""


def _how_fast(findings: Findings) -> str:
    if not findings.bench.rows:
        return ""
    first = min(findings.bench.rows, key=lambda bench: bench.row.latency_p50_ms)
    fastest = first.row
    images = "an image" if fastest.batch == 1 else f"{fastest.batch} images"
    return (
        f"The fastest measured runtime is {first.name} with a median of {fastest.latency_p50_ms:.1f} ms for {images} "
        f"of {fastest.height}×{fastest.width} pixels."
    )


def side_by_side(findings: Findings) -> list[Row]:
    """The figures of all runs and bundles."""
    runs, bundles = findings.runs, findings.bundles
    nothing: tuple[None, ...] = (None,) * len(bundles)

    def of_runs(figure: Callable[[RunFacts], float | None]) -> list[float | None]:
        return [figure(run) for run in runs] + list(nothing)

    def summary(key: str) -> list[float | None]:
        return of_runs(lambda run: None if run.summary is None else run.summary.get(key))

    def images(part: str) -> list[float | None]:
        return of_runs(lambda run: None if run.images is None else getattr(run.images, part).count)

    networks = [(run.recipe.model.backbone, run.recipe.model.decoder) for run in runs]
    networks += [(bundle.manifest.network.backbone, bundle.manifest.network.decoder) for bundle in bundles]
    parameters = [run.parameters for run in runs] + [bundle.manifest.network.parameters for bundle in bundles]
    rows = [
        _words("kind", ["run" for _ in runs] + ["bundle" for _ in bundles]),
        _words("state", [state_of(run) for run in runs] + [verdict_of(bundle) for bundle in bundles]),
        _words("backbone", [backbone for backbone, _ in networks]),
        _words("decoder", [decoder for _, decoder in networks]),
        _words("method", [method_of(run) for run in runs] + ["–" for _ in bundles]),
        _numbers("best mIoU, %", [findings.miou_of(name) for name in findings.names], percent, max),
        _numbers("last mIoU, %", of_runs(lambda run: run.last.kept_percent if run.last else None), percent, max),
        _numbers("student's last mIoU, %",
                 of_runs(lambda run: run.last.student_percent if run.last and run.averages else None), percent, max),
        _numbers("parameters", parameters, count, min),
        _numbers("labelled images", images("labelled"), count),
        _numbers("unlabelled images", images("unlabelled"), count),
        _numbers("training time", summary("train_seconds"), duration, min),
        _numbers("peak memory, MiB", summary("peak_memory_mib"), count, min),
        _numbers("skipped steps", of_runs(lambda run: run.skipped_steps or None), count, min),
        _numbers("unreadable images", of_runs(lambda run: run.unreadable or None), count),
    ]  # fmt: skip
    return [row for row in rows if any(cell != "–" for cell in row.cells)]


def state_of(run: RunFacts) -> str:
    if run.finished:
        return "finished"
    return f"step {run.step:,} of {run.steps:,}"


def verdict_of(bundle: BundleFacts) -> str:
    return {True: "verified", False: "FAILED verification", None: "not verified"}[bundle.verified]


def _words(label: str, cells: Sequence[str]) -> Row:
    return Row(label, tuple(cells), frozenset(), len(set(cells)) > 1, number=False)


def _numbers(
    label: str,
    values: Sequence[float | None],
    show: Callable[[float | None], str],
    better: Callable[[Sequence[float]], float] | None = None,
) -> Row:
    known = [value for value in values if value is not None and not math.isnan(value)]
    cells = tuple(show(value) for value in values)
    best: frozenset[int] = frozenset()
    if better is not None and len(set(known)) > 1:
        aim = show(better(known))
        best = frozenset(number for number, cell in enumerate(cells) if cell == aim)
    return Row(label, cells, best, len({cell for cell in cells if cell != "–"}) > 1)


def gap(one: float | None, other: float | None) -> str:
    """How far one value is above another, in points."""
    return points(None if one is None or other is None else one - other)
