"""The gate: does every compiled artefact of a bundle still segment?

One stage after the other, each against the one it was made from, on real images: PyTorch, the fp32 graph, the graphs of
other precisions, the engines. So the first stage that falls short is where the fault came in; later ones may only have
inherited it.

Stages of the same precision compute the same function and differ by rounding alone. Rounding flips a pixel only where
two classes are almost equally likely; so beside the share of equal pixels it is the *margin* at the unequal ones that
tells rounding from a fault: swapped channels or a wrong mean flip confident pixels too. Quantisation to int8 is no
rounding of that kind: it is held to an agreement and to the mIoU it may cost.

Class maps forgive much: a network can shrug off one layer whose values are twice too large, on these images. So the
graphs of other precisions are also compared tensor by tensor with the fp32 graph on their worst image.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from protoseg_deploy.data import Sample, read_image
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.exporting.bisecting import bisect_graph
from protoseg_deploy.exporting.comparing import ClassMap, Tally
from protoseg_deploy.exporting.folder import VERIFICATION_FOLDER
from protoseg_deploy.exporting.stages import Pass, Stage, exported_limits, find_stages, passes_of, with_next_step
from protoseg_deploy.exporting.truth import Truth
from protoseg_deploy.files import require_inside, require_no_overwriting
from protoseg_deploy.models import DeployedSegmenter, load_network
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.manifest import (
    REFERENCE_FILE,
    Limits,
    StageVerdict,
    Verification,
    check_file,
    read_manifest,
    write_manifest,
)
from protoseg_deploy.runtimes.metadata import Precision


def verify_bundle(
    bundle: Path,
    samples: Sequence[Sample],
    *,
    device: str = "cpu",
    openvino: bool = False,
    limits: Mapping[Precision, Limits] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Verification:
    """Compare every graph and engine of a bundle with what it was made from; the verdict goes into its manifest.

    Of every stage that differs anywhere the image with the lowest agreement is kept below ``verification/`` as a
    picture: image, expected, found, difference.

    Args:
        bundle: a bundle folder.
        samples: images, one by one at their own size, with or without masks. Artefacts bound to one size see the
            centre of larger images and mirrored borders around smaller ones, and so does what they are compared with.
        device: where ONNX Runtime computes; PyTorch is the reference and stays on the CPU.
        openvino: compare what OpenVINO makes of every graph, too.
        limits: thresholds by precision; where absent, what the export allowed int8 to lose, and `LIMITS`.
        progress: called with (images done, images in all).

    Raises:
        ProtosegError: the bundle is damaged or was changed.
        DataError: there are no images, or an image or mask cannot be used.
    """
    if not samples:
        raise DataError("verification needs at least one image")
    manifest = read_manifest(bundle)
    require_no_overwriting(_pictures(bundle), [sample.image for sample in samples], "--images folder")
    masks = Truth(manifest.classes.table(), manifest.input.reading, manifest.mask_reading())
    segmenter, spec = load_network(check_file(bundle, manifest, REFERENCE_FILE))
    reference = DeployedSegmenter(segmenter, spec.input_scale).eval()
    stages = find_stages(bundle, manifest, device, openvino, {**exported_limits(manifest), **(limits or {})})
    passes = passes_of(stages, manifest.input.fixed_size)
    tallies = {stage.name: Tally(masks.matrix(), masks.matrix()) for stage in stages if stage.runtime is not None}
    pytorch = masks.matrix()
    digest = hashlib.sha256()
    counted = fitted = 0
    for number, sample in enumerate(samples):
        image = read_image(sample.image, masks.images)
        digest.update(os.fsencode(sample.image.name) + b"\0" + hashlib.sha256(sample.image.read_bytes()).digest())
        mask = masks.read(sample, image)
        counted += mask is not None
        fitted += any(fit(image).shape != image.shape for fit in (one.fit for one in passes))
        for one in passes:
            matrix = pytorch if one is passes[0] else None
            _compare(reference, one, tallies, sample, one.fit(image), None if mask is None else one.fit(mask), matrix)
        if progress is not None:
            progress(number + 1, len(samples))
    verdicts = [_verdict(bundle, stage, tallies.get(stage.name)) for stage in stages]
    earlier = manifest.verification
    if earlier is not None and earlier.images_sha256 == digest.hexdigest():
        verdicts = _with_earlier(verdicts, earlier)
    verdicts = with_next_step(verdicts)
    verification = Verification(
        passed=all(verdict.status != "failed" for verdict in verdicts),
        images=len(samples),
        masks=counted,
        fitted_images=fitted,
        images_sha256=digest.hexdigest(),
        miou_pytorch_percent=pytorch.miou_percent() if counted else None,
        stages=tuple(verdicts),
    )
    _keep_pictures(bundle, tallies, masks.classes)
    # Read again: an engine may have been built meanwhile.
    write_manifest(bundle, read_manifest(bundle).model_copy(update={"verification": verification}))
    return verification


def worst_picture(bundle: Path, stage: str) -> Path | None:
    """The picture of the worst image of a stage; None if no pixel of it differed."""
    path = _picture(bundle, stage)
    return path if path.is_file() else None


@torch.inference_mode()
def _compare(
    reference: DeployedSegmenter,
    one: Pass,
    tallies: Mapping[str, Tally],
    sample: Sample,
    image: UInt8Array,
    mask: UInt8Array | None,
    pytorch: ConfusionMatrix | None,
) -> None:
    logits = reference.full_size_logits(torch.from_numpy(image[None]))[0]
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


def _verdict(bundle: Path, stage: Stage, tally: Tally | None) -> StageVerdict:
    if tally is None or stage.runtime is None:
        return StageVerdict(
            stage=stage.name,
            artefact=stage.artefact,
            against=stage.against,
            status="not run",
            reasons=(stage.reason,),
            limits=stage.limits,
        )
    assert tally.worst is not None
    reasons = (*tally.faults(stage.limits, stage.against), *_inner_faults(bundle, stage, tally.worst.sample.image))
    return StageVerdict(
        stage=stage.name,
        artefact=stage.artefact,
        against=stage.against,
        status="failed" if reasons else "passed",
        reasons=reasons,
        backend=stage.runtime.info.backend,
        emulated=bool(stage.runtime.info.details.get("emulated")),
        limits=stage.limits,
        agreement_percent=tally.agreement_percent,
        worst_image=tally.worst.sample.image.name,
        worst_agreement_percent=tally.worst.agreement_percent,
        disagreeing_pixels=tally.disagreeing,
        max_relative_margin=tally.margin,
        miou_percent=tally.miou_percent,
        miou_drop_points=tally.miou_drop_points,
    )


def _inner_faults(bundle: Path, stage: Stage, image: Path) -> tuple[str, ...]:
    """What is wrong inside a graph made from the fp32 graph, whether or not class maps show it."""
    if stage.against != "onnx fp32" or not stage.is_graph:
        return ()
    found = bisect_graph(bundle, stage.precision, image)
    wrong = next((step for step in found.steps if step.wrong), None)
    return () if wrong is None else (f"{wrong.operation} ({wrong.kind}) {wrong.describe()} on {image.name}",)


def _with_earlier(verdicts: list[StageVerdict], earlier: Verification) -> list[StageVerdict]:
    """Keep what was found on the same images where a stage cannot run here, or was not asked for."""
    kept = {stage.stage: stage for stage in earlier.stages if stage.status != "not run"}
    merged = [kept.pop(v.stage, v) if v.status == "not run" else v for v in verdicts]
    names = {verdict.stage for verdict in merged}
    return merged + [stage for name, stage in kept.items() if name not in names and name.startswith("openvino ")]


def _picture(bundle: Path, stage: str) -> Path:
    return bundle / VERIFICATION_FOLDER / f"worst-{stage.replace(' ', '-')}.png"


def _pictures(bundle: Path) -> list[Path]:
    """Pictures of an earlier verification.

    Raises:
        UsageError: their folder is a link: what lies there is not the bundle's.
    """
    folder = bundle / VERIFICATION_FOLDER
    require_inside(bundle, folder)
    return list(folder.glob("worst-*.png"))


def _keep_pictures(bundle: Path, tallies: Mapping[str, Tally], classes: ClassTable) -> None:
    for picture in _pictures(bundle):
        try:
            picture.unlink()
        except OSError as error:
            raise ProtosegError(f"cannot remove {picture}: {error.strerror}") from None
    for name, tally in tallies.items():
        if tally.disagreeing:
            tally.save_worst(_picture(bundle, name), classes)
