"""From the arguments of ``protoseg report`` to its page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from protoseg_deploy.bundles.card import BEGIN
from protoseg_deploy.data import Sample, read_image
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation.samples import evenly_spaced, folder_samples, masks_of, recipe_samples
from protoseg_deploy.files import resolved, write_atomically
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.reporting.album import Album
from protoseg_deploy.reporting.card import report_card
from protoseg_deploy.reporting.facts import BundleFacts, RunFacts, Subjects, data_facts, find_subjects
from protoseg_deploy.reporting.findings import Findings
from protoseg_deploy.reporting.page import GENERATOR, MOST_BYTES, render
from protoseg_deploy.reporting.panels import Judged, choose, draw_panels, judge
from protoseg_deploy.reporting.prototypes import has_bank, prototype_facts
from protoseg_deploy.runtimes import open_runtime
from protoseg_deploy.runtimes.pytorch import recipe_windows

_ALBUM_BYTES = 3_300_000
_SEARCHED = 60
"""Images in which patches of prototypes are looked for."""
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class ReportOptions:
    """What a report may look at.

    Attributes:
        images: images to judge networks on; the validation images of the first run when absent.
        masks: their masks.
        mask_template: path of a mask below `masks`.
        count: at most so many of them, evenly spaced.
        device: ``auto``, ``cpu`` or ``cuda``.
        look: False reads no image at all.
        title: of the page; names what it is about when absent.
        card: file to write the model card of the one bundle to.
    """

    images: Path | None = None
    masks: Path | None = None
    mask_template: str = "{stem}.png"
    count: int = 100
    device: str = "auto"
    look: bool = True
    title: str | None = None
    card: Path | None = None


@dataclass(frozen=True)
class MadeReport:
    """What `make_report` has written."""

    path: Path
    bytes: int
    findings: Findings


def make_report(
    paths: Sequence[Path], out: Path, options: ReportOptions | None = None, progress: Progress | None = None
) -> MadeReport:
    """Write one HTML file about runs, bundles and measured latencies; nothing that is read is changed.

    Args:
        paths: see `find_subjects`.
        out: the file. Only a report is replaced.
        options: what to look at.
        progress: called with (images done, images in all).

    Raises:
        UsageError: a path is nothing that can be reported on, or `out` is something else than a report.
        DataError: images or masks that were named cannot be used.
        ProtosegError: a file of a run or a bundle is damaged.
        WriteError: the page cannot be written.
    """
    options = options or ReportOptions()
    require_report(out, paths)
    subjects = find_subjects(paths)
    card = None
    if options.card is not None:
        require_card(options.card)
        card = report_card(subjects).encode("utf-8", "backslashreplace")
    album = Album(_ALBUM_BYTES)
    findings = gather(subjects, options, album, progress)
    page = render(findings, album.encode(), options.title).encode("utf-8", "backslashreplace")
    if len(page) > MOST_BYTES:
        raise ProtosegError(
            f"the report has {len(page):,} bytes, more than the {MOST_BYTES:,} that a mail can carry",
            "Report on fewer runs at a time, or leave pictures out with --no-images.",
        )
    write_atomically(out, page)
    if options.card is not None and card is not None:
        write_atomically(options.card, card)
    return MadeReport(out, len(page), findings)


def require_report(out: Path, paths: Sequence[Path]) -> None:
    """Refuse to write over what is no report, and into a bundle.

    Raises:
        UsageError: it would.
    """
    place = resolved(out)
    if out.is_dir():
        raise UsageError(f"{out} is a folder", "Name a file: --out report.html.")
    for path in paths:
        if place == resolved(path):
            raise UsageError(f"{out} is what the report is about: it would be replaced", "Choose another --out.")
        if (path / "manifest.json").is_file() and place.is_relative_to(resolved(path)):
            raise UsageError(f"{out} lies in the bundle {path}, whose files are listed", "Choose another --out.")
    if out.exists():
        with out.open("rb") as file:
            ours = GENERATOR.encode() in file.read(2000)
        if not ours:
            raise UsageError(f"{out} exists and is not a report: it would be replaced", "Choose another --out.")


def require_card(path: Path) -> None:
    """Refuse to write a model card over what is none of ours.

    Raises:
        UsageError: it would.
    """
    if path.is_dir():
        raise UsageError(f"--card {path} is a folder", "Name a file: --card MODEL_CARD.md.")
    if path.exists() and BEGIN.encode() not in path.read_bytes():
        raise UsageError(f"--card {path} exists and is not a model card of ours", "Choose another file.")


def gather(subjects: Subjects, options: ReportOptions, album: Album, progress: Progress | None = None) -> Findings:
    """Everything that a page shows; pictures go into the album.

    Raises:
        DataError: images or masks that were named cannot be used.
        ProtosegError: a network cannot compute one of them.
    """
    findings = Findings(subjects)
    for bundle in subjects.bundles:
        for stage, path in bundle.pictures.items():
            try:
                findings.stage_pictures[bundle.name, stage] = album.photo(read_image(path, ImageReading()))
            except DataError as error:
                findings.notes.append(f"The picture of the worst image of {stage} is left out: {error.message}")
    if not options.look:
        findings.notes.append("No image was read (--no-images): there are no panels and no data facts.")
        return findings
    findings.data = data_facts(subjects.runs)
    samples, of_images = _samples(subjects, options, findings)
    judged = _judged(subjects, options, findings) if samples else []
    banks = [run for run in subjects.runs if has_bank(run)]
    searched = {run.name: evenly_spaced(_own_samples(run, samples), _SEARCHED) for run in banks}
    steps = _Steps(len(samples) * len(judged) + sum(map(len, searched.values())), progress)
    for one in judged:
        findings.judgements[one.name] = judge(one, samples, of_images, steps)
    same = [one for one in judged if one.runtime.info.classes.names == judged[0].runtime.info.classes.names]
    if judged:
        findings.panels = draw_panels(same, choose(findings.judgements[judged[0].name].images), album)
    for run in banks:
        masks = masks_of(open_runtime(run.folder, device="cpu").info)
        findings.banks.append(prototype_facts(run, searched[run.name], masks, album, steps))
    return findings


class _Steps:
    """Counts what is done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def __call__(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _samples(subjects: Subjects, options: ReportOptions, findings: Findings) -> tuple[tuple[Sample, ...], int]:
    """Images to judge networks on, and from how many they were taken."""
    if options.images is not None:
        if options.masks is None:
            raise UsageError("--images without --masks: networks are judged by masks", "Give the folder of the masks.")
        found = folder_samples(options.images, options.masks, options.mask_template)
        findings.images_of = f"images of {options.images.name}"
        return evenly_spaced(found, options.count), len(found)
    reasons = []
    for run in subjects.runs:
        if not run.recipe.data.val.is_set:
            reasons.append(f"{run.name}: the recipe names no validation images")
            continue
        try:
            found = recipe_samples(run.recipe.data)
        except ProtosegError as error:
            reasons.append(f"{run.name}: {error.message}")
            continue
        findings.images_of = f"validation images of {run.name}"
        return evenly_spaced(found, options.count), len(found)
    if subjects.names:
        reasons = reasons or ["a bundle does not name images: give --images and --masks, or its run"]
        findings.notes.append(f"No network was judged on images. {'; '.join(reasons)}.")
    return (), 0


def _own_samples(run: RunFacts, others: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Images in which patches of prototypes are looked for: of the run's own validation set, where they are there."""
    try:
        return recipe_samples(run.recipe.data) if run.recipe.data.val.is_set else others
    except ProtosegError:
        return others


def _judged(subjects: Subjects, options: ReportOptions, findings: Findings) -> list[Judged]:
    """Runtimes of all runs and bundles that have one."""
    found: list[Judged] = []
    subjects_in_order: list[RunFacts | BundleFacts] = [*subjects.runs, *subjects.bundles]
    for subject in subjects_in_order:
        run = subject if isinstance(subject, RunFacts) else None
        if run is not None and not any(network.which == "best" for network in run.networks):
            findings.notes.append(f"{run.name} has no network yet: it is not judged on images.")
            continue
        try:
            windows = recipe_windows(run.folder) if run is not None else None
            runtime = open_runtime(subject.folder, device=options.device, windows=windows)
        except ProtosegError as error:
            findings.notes.append(f"{subject.name} is not judged on images: {error.message}")
            continue
        found.append(Judged(subject.name, runtime, masks_of(runtime.info), _threshold(run) if run else None))
    return found


def _threshold(run: RunFacts) -> float | None:
    """Confidence from which the method of a run trusts a pseudo-label; None where it has no fixed one."""
    method = run.recipe.method
    distilled = any(network.provenance.get("method") == "distillation" for network in run.networks)
    if method.name == "supervised" or distilled or method.pseudo_label_filter != "confidence":
        return None
    return method.confidence_threshold
