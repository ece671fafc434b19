"""How a network does image by image: the counts of all, and pictures of the best, the median and the worst."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray

from protoseg_deploy.data import Sample, read_image, read_mask
from protoseg_deploy.evaluation.class_maps import choose_tiling, predict_image
from protoseg_deploy.evaluation.colors import colorize
from protoseg_deploy.evaluation.computing import CheckedRuntime
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.evaluation.reading import read_batches
from protoseg_deploy.recipe import ClassTable, MaskReading
from protoseg_deploy.reporting.album import Album
from protoseg_deploy.runtimes import Runtime
from protoseg_deploy.runtimes.base import GraphRuntime
from protoseg_deploy.runtimes.pytorch import PyTorchRuntime

UInt8Array = NDArray[np.uint8]
Rank = Literal["worst", "median", "best"]

_WRONG = (214, 40, 57)
_CHOSEN: dict[Rank, int] = {"worst": 3, "median": 2, "best": 2}


@dataclass(frozen=True)
class JudgedImage:
    """One image and how well it was segmented."""

    sample: Sample
    miou_percent: float
    """Mean over the classes in its truth or its prediction."""


@dataclass
class Trusted:
    """Pixels by predicted class: all, those at or above the threshold, and those of them that are right."""

    threshold: float
    pixels: NDArray[np.int64]
    trusted: NDArray[np.int64]
    right: NDArray[np.int64]


@dataclass(frozen=True)
class Judgement:
    """What a network did on images with masks."""

    name: str
    classes: ClassTable
    counts: NDArray[np.int64]
    """``[C,C]`` pixels, truth major."""
    iou_percent: tuple[float, ...]
    """nan for a class in neither truth nor prediction."""
    miou_percent: float
    images: tuple[JudgedImage, ...]
    """Without those that are ignored completely."""
    image_count: int
    of_images: int
    """From how many they were taken, evenly spaced."""
    trusted: Trusted | None
    """None where the network tells no confidence."""


@dataclass(frozen=True)
class Pictures:
    """Numbers in the album: what one network made of one image."""

    name: str
    miou_percent: float | None
    prediction: int
    errors: int
    confidence: int | None


@dataclass(frozen=True)
class Panel:
    """One image with its truth and all predictions."""

    rank: Rank
    file: str
    miou_percent: float
    """Of the first network, by which images are chosen."""
    image: int
    truth: int
    predictions: tuple[Pictures, ...]
    classes: tuple[int, ...]
    """Those in the truth or a prediction, for the legend."""
    ignored: bool


@dataclass(frozen=True)
class Judged:
    """A runtime with what judging it takes."""

    name: str
    runtime: Runtime
    masks: MaskReading
    threshold: float | None = None
    """Confidence from which its method trusts a pixel; None where there is none."""
    _checked: CheckedRuntime = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_checked", CheckedRuntime(self.runtime))

    def class_map(self, image: UInt8Array, name: str) -> NDArray[np.integer]:
        """``[H,W]`` class indices of ``[H,W,3]`` uint8 RGB; in tiles where the artefact has a fixed size.

        Raises:
            ProtosegError: it cannot be computed; the message names the image.
        """
        return predict_image(self._checked, image, name, choose_tiling(self.runtime.info, None, None, 1))

    def confidence(self, image: UInt8Array) -> UInt8Array | None:
        """``[H,W]`` probability of the predicted class, 0..255; None where the network does not tell it."""
        runtime = self.runtime
        if runtime.info.fixed_size is not None:
            return None
        if isinstance(runtime, PyTorchRuntime):
            found = runtime.confidence(image[None])
            return None if found is None else found[0]
        if isinstance(runtime, GraphRuntime) and "confidence" in runtime.outputs:
            confidence: UInt8Array = runtime.compute(image[None], ["confidence"])["confidence"][0]
            return confidence
        return None


def judge(
    judged: Judged,
    samples: Sequence[Sample],
    of_images: int,
    progress: Callable[[], object] | None = None,
) -> Judgement:
    """Count the pixels of images by true and predicted class, and note how each image does.

    Raises:
        DataError: images or masks that cannot be used; every error with its file.
        ProtosegError: an image cannot be computed.
    """
    info = judged.runtime.info
    classes = len(info.classes)
    total = ConfusionMatrix(classes, judged.masks.ignore_index)
    trusted = None if judged.threshold is None else _no_trust(judged.threshold, classes)
    images: list[JudgedImage] = []
    batches = read_batches(samples, classes=classes, images=info.reading, masks=judged.masks, batch=1)
    for pixels, truth, (sample,) in batches:
        predicted = judged.class_map(pixels[0], str(sample.image))
        single = ConfusionMatrix(classes, judged.masks.ignore_index)
        single.update(predicted, truth[0])
        total.update(predicted, truth[0])
        miou = single.miou_percent()
        if not math.isnan(miou):
            images.append(JudgedImage(sample, miou))
        if trusted is not None:
            confidence = judged.confidence(pixels[0])
            counted = truth[0] != judged.masks.ignore_index
            trusted = None if confidence is None else _add_trust(trusted, predicted, confidence, truth[0], counted)
        if progress is not None:
            progress()
    return Judgement(
        judged.name,
        info.classes,
        np.asarray(total.counts(), np.int64),
        tuple(total.iou_percent()),
        total.miou_percent(),
        tuple(images),
        len(samples),
        of_images,
        trusted,
    )


def choose(images: Sequence[JudgedImage]) -> list[tuple[Rank, JudgedImage]]:
    """The worst, the median and the best of them, each image once; worst first."""
    order = sorted(images, key=lambda image: (image.miou_percent, str(image.sample.image)))
    middle = len(order) // 2
    wanted: dict[Rank, list[JudgedImage]] = {
        "worst": order[: _CHOSEN["worst"]],
        "median": order[max(0, middle - 1) : middle + 1],
        "best": order[::-1][: _CHOSEN["best"]],
    }
    if len(order) < sum(_CHOSEN.values()):  # one of each kind first
        wanted = {"worst": order[:1], "median": order[middle : middle + 1], "best": order[-1:]}
    taken: set[str] = set()
    chosen: list[tuple[Rank, JudgedImage]] = []
    for rank, found in wanted.items():
        for image in found:
            if str(image.sample.image) not in taken:
                taken.add(str(image.sample.image))
                chosen.append((rank, image))
    return chosen


def draw_panels(judged: Sequence[Judged], chosen: Sequence[tuple[Rank, JudgedImage]], album: Album) -> list[Panel]:
    """Pictures of the chosen images by all networks, which have the same classes.

    Raises:
        ProtosegError: an image cannot be read or computed any more.
    """
    return [_panel(judged, rank, image, album) for rank, image in chosen]


def _panel(judged: Sequence[Judged], rank: Rank, chosen: JudgedImage, album: Album) -> Panel:
    first, sample = judged[0], chosen.sample
    assert sample.mask is not None
    pixels = read_image(sample.image, first.runtime.info.reading)
    truth = read_mask(sample.mask, first.masks)
    colors = first.runtime.info.classes.colors
    ignored = truth == first.masks.ignore_index
    shown = set(np.unique(truth[~ignored]).tolist())
    predictions = []
    for one in judged:
        own = pixels if one is first else read_image(sample.image, one.runtime.info.reading)
        predicted = one.class_map(own, str(sample.image))
        shown |= set(np.unique(predicted).tolist())
        single = ConfusionMatrix(len(colors), one.masks.ignore_index)
        single.update(predicted, truth)
        confidence = one.confidence(own)
        predictions.append(
            Pictures(
                one.name,
                None if math.isnan(single.miou_percent()) else single.miou_percent(),
                album.map(colorize(predicted, colors)),
                album.photo(error_map(pixels, predicted, truth, ignored)),
                None if confidence is None else album.photo(confidence_map(confidence)),
            )
        )
    return Panel(
        rank,
        sample.image.name,
        chosen.miou_percent,
        album.photo(pixels),
        album.map(colorize(np.where(ignored, len(colors), truth.astype(np.int32)), colors)),
        tuple(predictions),
        tuple(sorted(shown)),
        bool(ignored.any()),
    )


def error_map(
    image: UInt8Array, predicted: NDArray[np.integer], truth: NDArray[np.integer], ignored: NDArray[np.bool_]
) -> UInt8Array:
    """The image in pale grey, wrong pixels in red, ignored ones in stripes: ``[H,W,3]`` uint8 RGB."""
    grey = 150 + (image.mean(axis=2, keepdims=True) * (105 / 255))
    picture = np.repeat(grey, 3, axis=2).astype(np.uint8)
    stripes = colorize(ignored.astype(np.uint8), [(0, 0, 0)])
    picture[ignored] = stripes[ignored]
    picture[(predicted != truth) & ~ignored] = _WRONG
    return picture


def confidence_map(confidence: UInt8Array) -> UInt8Array:
    """Confidence 0..255 as colours from dark (unsure) to bright (sure), ``[H,W,3]`` uint8 RGB."""
    table = (colormaps["cividis"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)
    picture: UInt8Array = table[confidence]
    return picture


def _no_trust(threshold: float, classes: int) -> Trusted:
    return Trusted(threshold, *(np.zeros(classes, np.int64) for _ in range(3)))


def _add_trust(
    trusted: Trusted,
    predicted: NDArray[np.integer],
    confidence: UInt8Array,
    truth: UInt8Array,
    counted: NDArray[np.bool_],
) -> Trusted:
    classes = len(trusted.pixels)
    sure = counted & (confidence >= trusted.threshold * 255)
    for counts, which in (
        (trusted.pixels, counted),
        (trusted.trusted, sure),
        (trusted.right, sure & (predicted == truth)),
    ):
        counts += np.bincount(predicted[which], minlength=classes)
    return trusted
