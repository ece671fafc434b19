"""The gate: does every compiled artefact of a bundle still segment?

One stage after the other, each against the one it was made from, on real images: PyTorch, the fp32 graph, the graphs of
other precisions, the engines. So the first stage that fails is where the error occurs; later ones may only have
inherited it.

Stages of the same precision compute the same function and differ by rounding alone. Rounding flips a pixel only where
two classes are almost equally likely; so beside the share of equal pixels it is the *margin* at the unequal ones that
tells rounding from an error: swapped channels or a wrong mean flip confident pixels too. Quantisation to int8 is no
rounding of that kind: it is held to an agreement and to the mIoU it may cost.

Class maps hide many errors: a network can tolerate one layer whose values are twice too large, on these images. So the
graphs of other precisions are also compared tensor by tensor with the fp32 graph on their worst image.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.manifest import REFERENCE_FILE, Manifest
from protoseg_deploy.bundles.metadata import Classes
from protoseg_deploy.bundles.verdicts import Limits, StageVerdict, Verification
from protoseg_deploy.choices import BACKENDS, Backend, Precision
from protoseg_deploy.data import Sample, read_image
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.exporting.gate.bisecting import bisect_checked
from protoseg_deploy.exporting.gate.comparing import ClassMap, Evidence, Tally
from protoseg_deploy.exporting.gate.stages import Pass, Stage, exported_limits, find_stages, passes_of, with_next_step
from protoseg_deploy.exporting.mask_reader import MaskReader
from protoseg_deploy.files import require_no_overwriting
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, load_network
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.time_limit import time_limit


def verify_bundle(
    bundle: Bundle,
    samples: Sequence[Sample],
    *,
    device: str = "cpu",
    backends: Sequence[Backend] = (),
    limits: Mapping[Precision, Limits] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Verification:
    """Compare every graph and engine of a bundle with what it was made from; the verdict goes into its manifest.

    Of every stage that differs anywhere the image with the lowest agreement is kept below ``verification/`` as a
    picture: image, expected, found, difference.

    Args:
        bundle: what to verify.
        samples: images, one by one at their own size, with or without masks. Artefacts with a fixed input size see the
            centre of larger images and mirrored borders around smaller ones, and so does what they are compared with.
        device: where ONNX Runtime computes; PyTorch is the reference and stays on the CPU.
        backends: compare what these make of every graph, too.
        limits: thresholds by precision; where absent, what the export allowed int8 to lose, and those of
            `PrecisionSpec`.
        progress: called with (images done, images in all).

    Verdicts are of the files that were compared, and name their digests. Where the bundle is another one by the time
    they are written, they are not.

    Raises:
        ProtosegError: the bundle is damaged or was changed, or the network gives the same everywhere.
        NotFiniteError: the network or a graph holds NaN or infinity, or the network gives it.
        DataError: there are no images, an image or mask cannot be used, the masks show no class, or the network gives
            one class at every pixel of all images.
    """
    if not samples:
        raise DataError("verification needs at least one image")
    manifest = bundle.manifest
    require_no_overwriting(bundle.pictures(), [sample.image for sample in samples], "--images folder")
    masks = MaskReader(manifest.classes.table(), manifest.input.reading, manifest.mask_reading())
    segmenter, spec = load_network(bundle.reference())
    _require_described(bundle, spec)
    reference = DeployedSegmenter(segmenter, spec.input_scale).eval()
    stages = find_stages(bundle, device, backends, {**exported_limits(manifest), **(limits or {})})
    passes = passes_of(stages, manifest.input.fixed_size)
    tallies = {stage.name: Tally(masks.matrix(), masks.matrix()) for stage in stages if stage.runtime is not None}
    pytorch = masks.matrix()
    evidence = Evidence()
    digest = hashlib.sha256()
    counted = fitted = 0
    for number, sample in enumerate(samples):
        image = read_image(sample.image, masks.images)
        digest.update(image_identity(sample.image))
        mask = masks.read(sample, image)
        counted += mask is not None
        fitted += any(fit(image).shape != image.shape for fit in (one.fit for one in passes))
        for one in passes:
            matrix = pytorch if one is passes[0] else None
            truth = None if mask is None else one.fit(mask)
            _compare(reference, evidence, one, tallies, sample, one.fit(image), truth, matrix)
        if progress is not None:
            progress(number + 1, len(samples))
    evidence.require(masks.classes, len(samples))
    verdicts = [_verdict(bundle, stage, tallies.get(stage.name)) for stage in stages]
    earlier = manifest.verification
    if earlier is not None and earlier.images_sha256 == digest.hexdigest():
        verdicts = _with_earlier(verdicts, earlier, manifest)
    verdicts = with_next_step([_bound(verdict, stages, manifest) for verdict in verdicts])
    verification = Verification(
        passed=all(verdict.status != "failed" for verdict in verdicts),
        images=len(samples),
        masks=counted,
        fitted_images=fitted,
        images_sha256=digest.hexdigest(),
        miou_pytorch_percent=masks.miou_percent(pytorch) if counted else None,
        stages=tuple(verdicts),
    )
    bundle.record(verification)
    _keep_pictures(bundle, tallies, masks.classes)
    return verification


def image_identity(image: Path) -> bytes:
    """What of an image goes into `Verification.images_sha256`: its name and the digest of its bytes."""
    return os.fsencode(image.name) + b"\0" + hashlib.sha256(image.read_bytes()).digest()


def _require_described(bundle: Bundle, spec: NetworkSpec) -> None:
    manifest = bundle.manifest
    described = (manifest.classes, manifest.masks.ignore_index, manifest.input.input_scale)
    if described != (Classes.of(spec.classes), spec.ignore_index, spec.input_scale):
        raise ProtosegError(
            f"{bundle.folder / REFERENCE_FILE} is not the network the manifest describes: classes, ignore index or "
            "input scale differ",
            "Export the bundle again.",
        )


def _bound(verdict: StageVerdict, stages: Sequence[Stage], manifest: Manifest) -> StageVerdict:
    """The verdict with the digests of what was compared; one that was kept has its own."""
    if verdict.artefact_sha256 is not None:
        return verdict
    artefacts = {stage.name: stage.artefact for stage in stages}
    against = REFERENCE_FILE if verdict.against == "pytorch" else artefacts.get(verdict.against, "")
    digests = {
        "artefact_sha256": manifest.digest_of(verdict.artefact),
        "against_sha256": manifest.digest_of(against),
    }
    return verdict.model_copy(update=digests)


def worst_picture(bundle: Bundle, stage: str) -> Path | None:
    """The picture of the worst image of a stage; None if no pixel of it differed."""
    path = bundle.picture_of(stage)
    return path if path.is_file() else None


@torch.inference_mode()
def _compare(
    reference: DeployedSegmenter,
    evidence: Evidence,
    one: Pass,
    tallies: Mapping[str, Tally],
    sample: Sample,
    image: UInt8Array,
    mask: UInt8Array | None,
    pytorch: ConfusionMatrix | None,
) -> None:
    with time_limit(f"PyTorch on {sample.image}"):
        logits = reference.full_size_logits(torch.from_numpy(image[None]))[0]
    evidence.see(sample, logits)
    maps: dict[str, ClassMap] = {"pytorch": logits.argmax(dim=0).numpy()}
    if pytorch is not None and mask is not None:
        pytorch.update(maps["pytorch"], mask)
    for stage in one.stages:
        assert stage.runtime is not None
        smallest_batch = (stage.runtime.info.batch_range or (1, 1))[0]
        maps[stage.name] = stage.runtime.predict(np.repeat(image[None], smallest_batch, axis=0))[0]
        if stage.name in one.counted:
            expected = maps[stage.against]
            tallies[stage.name].add(sample, image, expected, maps[stage.name], logits, mask)


def _verdict(bundle: Bundle, stage: Stage, tally: Tally | None) -> StageVerdict:
    constant = tally is not None and len(tally.expected_classes) < 2
    if tally is None or stage.runtime is None or constant:
        reason = f"{stage.against} gives one class only at the sizes it takes, which is not a valid test"
        return StageVerdict(
            stage=stage.name,
            artefact=stage.artefact,
            against=stage.against,
            status="not run",
            reasons=(reason if constant else stage.reason,),
            limits=stage.limits,
        )
    assert tally.worst is not None
    inner = _inner_faults(bundle, stage, tally.worst.sample.image)
    reasons = (*tally.faults(stage.limits, stage.against), *inner)
    return StageVerdict(
        stage=stage.name,
        artefact=stage.artefact,
        against=stage.against,
        status="failed" if reasons else "passed",
        reasons=reasons,
        backend=stage.runtime.info.backend,
        emulated=bool(stage.runtime.info.emulated),
        limits=stage.limits,
        agreement_percent=tally.agreement_percent,
        worst_image=tally.worst.sample.image.name,
        worst_agreement_percent=tally.worst.agreement_percent,
        disagreeing_pixels=tally.disagreeing,
        max_relative_margin=tally.margin,
        miou_percent=tally.miou_percent,
        miou_drop_points=tally.miou_drop_points,
    )


def _inner_faults(bundle: Bundle, stage: Stage, image: Path) -> tuple[str, ...]:
    """What is wrong inside a graph made from the fp32 graph, whether or not class maps show it."""
    if stage.against != "onnx fp32" or stage.kind != "onnx":
        return ()
    found = bisect_checked(bundle, stage.precision, image)
    wrong = next((step for step in found.steps if step.wrong), None)
    return () if wrong is None else (f"{wrong.operation} ({wrong.kind}) {wrong.describe()} on {image.name}",)


def _with_earlier(verdicts: list[StageVerdict], earlier: Verification, manifest: Manifest) -> list[StageVerdict]:
    """Keep what was found on the same images, and files, where a stage cannot run here or was not asked for."""
    of_these = filter(manifest.is_about_these_files, earlier.stages)
    kept = {stage.stage: stage for stage in of_these if stage.status != "not run"}
    merged = [kept.pop(v.stage, v) if v.status == "not run" else v for v in verdicts]
    names = {verdict.stage for verdict in merged}
    return merged + [stage for name, stage in kept.items() if name not in names and stage.kind in BACKENDS]


def _keep_pictures(bundle: Bundle, tallies: Mapping[str, Tally], classes: ClassTable) -> None:
    for picture in bundle.pictures():
        try:
            picture.unlink()
        except OSError as error:
            raise ProtosegError(f"cannot remove {picture}: {error.strerror}") from None
    for name, tally in tallies.items():
        if tally.disagreeing:
            tally.save_worst(bundle.picture_of(name), classes)
