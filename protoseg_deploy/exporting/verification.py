"""Does the compiled graph still segment? PyTorch against ONNX Runtime on real images, pixel by pixel.

Both compute the same function in float32 and differ by rounding alone. Rounding flips a pixel only where two classes
are almost equally likely; so beside the share of equal pixels it is the *margin* at the unequal ones that tells
rounding from a fault: swapped channels or a wrong mean flip confident pixels too.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.data import Sample, read_image, read_mask
from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.evaluation.colors import colorize
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.models import DeployedSegmenter, load_network, write_atomically
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    Limits,
    Verdict,
    check_file,
    read_manifest,
)
from protoseg_deploy.runtimes.onnx import OnnxRuntime

VERIFICATION_FOLDER = "verification"

ClassMap = NDArray[np.integer]


@dataclass(frozen=True)
class Comparison:
    """Both class maps of one image."""

    pytorch: ClassMap
    onnx: ClassMap
    disagreeing_pixels: int
    relative_margin: float
    """Largest, at a disagreeing pixel; 0 where there is none."""

    @property
    def agreement_percent(self) -> float:
        return 100.0 * (1.0 - self.disagreeing_pixels / self.pytorch.size)


def verify_bundle(
    bundle: Path,
    samples: Sequence[Sample],
    *,
    ignore_index: int | None = None,
    value_map: Mapping[int, int] | None = None,
    device: str = "cpu",
    limits: Limits | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Verdict:
    """Compare the graph of a bundle with its reference network and write the verdict into its manifest.

    If it does not pass, the image with the lowest agreement is kept below ``verification/`` as a picture: image,
    PyTorch, ONNX, difference.

    Args:
        bundle: a bundle folder.
        samples: images, one by one at their own size, with or without masks. A graph bound to one size sees the centre
            of larger images and mirrored borders around smaller ones, and so does PyTorch.
        ignore_index: of the masks; absent: as the manifest says.
        value_map: of the masks; absent: as the manifest says.
        device: where ONNX Runtime computes; PyTorch is the reference and stays on the CPU.
        limits: thresholds; the defaults of `Limits` when absent.
        progress: called with (images done, images in all).

    Raises:
        ProtosegError: the bundle is damaged or was changed.
        DataError: there are no images, or an image or mask cannot be used.
    """
    if not samples:
        raise DataError("verification needs at least one image")
    limits = limits or Limits()
    manifest = read_manifest(bundle)
    check_file(bundle, manifest, GRAPH_FILE)
    segmenter, spec = load_network(check_file(bundle, manifest, REFERENCE_FILE))
    reference = DeployedSegmenter(segmenter, spec.input_scale).eval()
    runtime = OnnxRuntime(bundle, device=device)
    fixed = runtime.info.fixed_size
    classes = runtime.info.classes
    mapping = manifest.masks.value_map if value_map is None else value_map
    ignored = manifest.masks.ignore_index if ignore_index is None else ignore_index

    matrices = {name: ConfusionMatrix(len(classes), ignored) for name in ("pytorch", "onnx")}
    worst: tuple[Sample, UInt8Array, Comparison] | None = None
    pixels = disagreeing = masks = fitted = 0
    margin = 0.0
    digest = hashlib.sha256()
    for number, sample in enumerate(samples):
        image = read_image(sample.image)
        digest.update(sample.image.name.encode() + b"\0" + hashlib.sha256(sample.image.read_bytes()).digest())
        mask = _read_mask(sample, image, mapping, classes, ignored)
        if fixed is not None and image.shape[:2] != fixed:
            fitted += 1
            image = _fit(image, fixed)
            mask = None if mask is None else _fit(mask, fixed)
        result = _compare(reference, runtime, image)
        pixels += result.pytorch.size
        disagreeing += result.disagreeing_pixels
        margin = max(margin, result.relative_margin)
        if mask is not None:
            masks += 1
            matrices["pytorch"].update(result.pytorch, mask)
            matrices["onnx"].update(result.onnx, mask)
        if worst is None or result.agreement_percent < worst[2].agreement_percent:
            worst = (sample, image, result)
        if progress is not None:
            progress(number + 1, len(samples))

    assert worst is not None
    agreement = 100.0 * (1.0 - disagreeing / pixels)
    scores = {name: _finite(matrix.miou_percent()) if masks else None for name, matrix in matrices.items()}
    reasons = _reasons(limits, agreement, margin, scores["pytorch"], scores["onnx"])
    verdict = Verdict(
        passed=not reasons,
        reasons=tuple(reasons),
        limits=limits,
        images=len(samples),
        masks=masks,
        fitted_images=fitted,
        agreement_percent=agreement,
        worst_image=worst[0].image.name,
        worst_agreement_percent=worst[2].agreement_percent,
        disagreeing_pixels=disagreeing,
        max_relative_margin=margin,
        miou_pytorch_percent=scores["pytorch"],
        miou_onnx_percent=scores["onnx"],
        images_sha256=digest.hexdigest(),
        provider=runtime.info.backend,
    )
    _forget_pictures(bundle)
    if not verdict.passed:
        _keep_picture(bundle / VERIFICATION_FOLDER / f"worst-{worst[0].image.stem}.png", *worst[1:], classes)
    content = manifest.model_copy(update={"verification": verdict}).to_json()
    write_atomically(bundle / MANIFEST_FILE, content.encode())
    return verdict


def worst_picture(bundle: Path) -> Path | None:
    """The picture a failed verification left in a bundle."""
    return next(iter(sorted((bundle / VERIFICATION_FOLDER).glob("worst-*.png"))), None)


@torch.inference_mode()
def _compare(reference: DeployedSegmenter, runtime: OnnxRuntime, image: UInt8Array) -> Comparison:
    logits = reference.full_size_logits(torch.from_numpy(image[None]))[0]
    ours: ClassMap = logits.argmax(dim=0).numpy()
    theirs: ClassMap = runtime.predict(image[None])[0]
    differs = torch.from_numpy(ours != theirs)
    count = int(differs.sum())
    margin = 0.0
    if count:
        best, second = logits[:, differs].topk(2, dim=0).values
        spread = float((logits - logits.mean(dim=0)).square().mean().sqrt())
        margin = float((best - second).max()) / max(spread, 1e-12)
    return Comparison(ours, theirs, count, margin if math.isfinite(margin) else 1e12)


def _reasons(limits: Limits, agreement: float, margin: float, pytorch: float | None, onnx: float | None) -> list[str]:
    reasons = []
    if agreement < limits.min_agreement_percent:
        reasons.append(f"{agreement:.3f} % of the pixels agree, at least {limits.min_agreement_percent} % must")
    if margin > limits.max_relative_margin:
        reasons.append(
            f"a pixel differs of which PyTorch is sure: relative margin {margin:.2g}, "
            f"at most {limits.max_relative_margin:g} passes for rounding"
        )
    if pytorch is not None and onnx is not None and abs(pytorch - onnx) > limits.max_miou_change_points:
        reasons.append(f"mIoU changes from {pytorch:.2f} % to {onnx:.2f} %")
    return reasons


def _read_mask(
    sample: Sample, image: UInt8Array, value_map: Mapping[int, int], classes: ClassTable, ignore_index: int
) -> UInt8Array | None:
    if sample.mask is None:
        return None
    mask = read_mask(sample.mask, value_map)
    if mask.shape != image.shape[:2]:
        raise DataError(
            f"{sample.mask}: mask is {mask.shape[1]}x{mask.shape[0]} pixels, "
            f"its image {image.shape[1]}x{image.shape[0]}"
        )
    strange = [int(value) for value in np.unique(mask) if value >= len(classes) and value != ignore_index]
    if strange:
        raise DataError(
            f"{sample.mask}: holds {', '.join(map(str, strange[:8]))}: no class (0..{len(classes) - 1}) and not the "
            f"ignore index {ignore_index}"
        )
    return mask


def _fit(array: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Cut the centre out, or pad symmetrically by mirroring; image and mask alike."""
    for axis, wanted in enumerate(size):
        surplus = array.shape[axis] - wanted
        if surplus >= 0:
            array = np.take(array, np.arange(surplus // 2, surplus // 2 + wanted), axis=axis)
        else:
            widths = [(0, 0)] * array.ndim
            widths[axis] = (-surplus // 2, -surplus - -surplus // 2)
            array = np.pad(array, widths, mode="symmetric")
    return np.ascontiguousarray(array)


def _forget_pictures(bundle: Path) -> None:
    for picture in (bundle / VERIFICATION_FOLDER).glob("worst-*.png"):
        picture.unlink()


def _keep_picture(path: Path, image: UInt8Array, result: Comparison, classes: ClassTable) -> None:
    """Image, PyTorch, ONNX and difference (white) side by side."""
    differs = np.repeat((result.pytorch != result.onnx)[..., None], 3, axis=2).astype(np.uint8) * 255
    gap = np.full((image.shape[0], 4, 3), 128, dtype=np.uint8)
    maps = [colorize(class_map, classes.colors) for class_map in (result.pytorch, result.onnx)]
    row = np.concatenate([image, gap, maps[0], gap, maps[1], gap, differs], axis=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row).save(path)
    except OSError as error:
        raise ProtosegError(f"cannot write {path}: {error.strerror or error}") from None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
