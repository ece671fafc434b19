"""The model card of a bundle, from the same facts as a report."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.manifest import REFERENCE_FILE, Manifest
from protoseg_deploy.data import Sample, image_size
from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.evaluation.samples import recipe_samples, run_samples
from protoseg_deploy.exporting.gate.verification import image_identity
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.reporting.card_text import CardFacts, model_card
from protoseg_deploy.reporting.facts import BenchRow, RunFacts, Subjects, run_facts
from protoseg_deploy.run_folder import RunFolder


def export_card(run: Path, folder: Path) -> Callable[[Bundle, Sequence[Sample]], str]:
    """For `export_bundle`: writes the card of the network of a run.

    Args:
        run: a run folder or a network file.
        folder: of the bundle, whose name the card has.
    """

    def text(bundle: Bundle, samples: Sequence[Sample]) -> str:
        facts = None
        around = RunFolder.around(run)
        if around.exists():
            try:
                facts = run_facts(around.folder)
            except ProtosegError:  # a card says less, an export does not fail for it
                facts = None
        verified = samples if bundle.manifest.verification is not None else ()
        return model_card(card_facts(folder.absolute().name, bundle.manifest, facts, verified))

    return text


def card_facts(
    name: str,
    manifest: Manifest,
    run: RunFacts | None,
    samples: Sequence[Sample] = (),
    latencies: Sequence[BenchRow] = (),
) -> CardFacts:
    """Facts of a bundle and of the run that it comes from.

    Args:
        name: of the bundle.
        manifest: of the bundle.
        run: whose network it holds.
        samples: images that it was verified on.
        latencies: measured of its files.
    """
    step = manifest.provenance.training.get("step")
    found = [each for each in run.evaluations if each.step == step] if run is not None else []
    val_images = None
    if run is not None and run.recipe.data.val.is_set:
        try:
            val_images = len(recipe_samples(run.recipe.data))
        except ProtosegError:
            val_images = None
    return CardFacts(
        name,
        manifest,
        run,
        found[-1] if found else None,
        val_images,
        _sizes(samples, manifest.input.reading),
        tuple(latencies),
    )


def _sizes(samples: Sequence[Sample], reading: ImageReading) -> tuple[str, ...]:
    counts: Counter[tuple[int, int]] = Counter()
    for sample in samples:
        try:
            height, width = image_size(sample.image, reading)
        except DataError:
            continue
        counts[height, width] += 1
    return tuple(f"{height}×{width}" for (height, width), _ in counts.most_common())


def report_card(subjects: Subjects) -> str:
    """The card of the one bundle of a report, with the run it comes from and the latencies of its files.

    Raises:
        UsageError: there is no bundle, or more than one.
    """
    if len(subjects.bundles) != 1:
        there = "none" if not subjects.bundles else ", ".join(bundle.name for bundle in subjects.bundles)
        raise UsageError(f"--card: a model card is of one bundle, and this report has {there}", "Name one bundle.")
    bundle = subjects.bundles[0]
    manifest = bundle.manifest
    network = manifest.files[REFERENCE_FILE].sha256
    run = next((run for run in subjects.runs if network in {known.sha256 for known in run.networks}), None)
    artefacts = [graph.file for graph in manifest.graphs.values()]
    artefacts += [engine.file for engine in manifest.engines.values()]
    digests = {manifest.digest_of(artefact) for artefact in artefacts}
    latencies = [row for row in subjects.bench.rows if row.row.digest and row.row.digest in digests]
    samples = _verified_samples(run, manifest) if run is not None else ()
    name = bundle.folder.absolute().name
    return model_card(card_facts(name, manifest, run, samples, latencies))


def _verified_samples(run: RunFacts, manifest: Manifest) -> tuple[Sample, ...]:
    """Images of a run that a bundle was verified on, if they are these and as they were."""
    verification = manifest.verification
    if verification is None:
        return ()
    try:
        samples = run_samples(run.folder, verification.images)
    except ProtosegError:
        return ()
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(image_identity(sample.image))
    return samples if digest.hexdigest() == verification.images_sha256 else ()
