"""Which images to label next: those least like what is labelled, and those a network is least sure of.

k-center greedy (Sener and Savarese, Active Learning for Convolutional Neural Networks: A Core-Set Approach, ICLR 2018)
over features of whole images; a run adds how unsure it is and how far pixels are from all of its prototypes.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.data import read_image
from protoseg_deploy.errors import DataError, UsageError
from protoseg_deploy.models import load_network, scale_images
from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.saved import load_prototypes
from protoseg_deploy.models.weights import load_backbone_weights
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.run_folder import RunFolder

Float32Array = NDArray[np.float32]
Progress = Callable[[int, int], None]
_MOST_SIDE = 512
"""Larger images are shrunk before they are described."""
_HARDEST = 0.1
"""Share of the pixels that speak for an image: mean values hide small objects."""
_WEIGHT = 0.5
"""Of uncertainty and of novelty beside distance."""


@dataclass(frozen=True)
class Described:
    """What is known of one image."""

    feature: Float32Array
    """``[D]`` of length 1."""
    uncertainty: float = 0.0
    """Of its hardest pixels: 1 minus the margin between the two most probable classes."""
    novelty: float = 0.0
    """Of its strangest pixels: 1 minus the cosine to the nearest prototype."""


class Describer(Protocol):
    """What turns an image into a feature."""

    reading: ImageReading

    def describe(self, image: NDArray[np.uint8]) -> Described:
        """Of ``[H,W,3]`` uint8 RGB."""
        ...


class RunDescriber:
    """A trained network.

    Args:
        folder: of a run.

    Raises:
        ProtosegError: it holds no network.
    """

    def __init__(self, folder: Path) -> None:
        run = RunFolder(folder)
        self._segmenter, spec = load_network(run.network("best"))
        self._segmenter.eval()
        self._scale, self.reading = spec.input_scale, spec.reading
        recipe = run.recipe()
        self._prototypes: Tensor | None = None
        if run.prototypes.is_file() and recipe.method.prototypes is not None:
            self._which = recipe.method.prototypes.features
            self._prototypes = F.normalize(load_prototypes(run.prototypes).flatten(0, -2), dim=1)

    @torch.inference_mode()
    def describe(self, image: NDArray[np.uint8]) -> Described:
        output = self._segmenter.forward_features(scale_images(_pixels(image), self._scale))
        feature = _pooled([output.pyramid[-1], output.head_input])
        top = output.logits[0].softmax(dim=0).topk(2, dim=0).values
        unsure = _hardest(1 - (top[0] - top[1]))
        strange = 0.0
        if self._prototypes is not None:
            pixels = F.normalize(output.features(self._which)[0].flatten(1), dim=0)
            strange = _hardest(1 - (self._prototypes @ pixels).amax(dim=0))
        return Described(feature, unsure, strange)


class BackboneDescriber:
    """A pretrained backbone, where nothing is trained yet.

    Args:
        name: timm model.
        weights: file; None: fetched by timm.

    Raises:
        UsageError: there is no such model, or no weights.
    """

    reading = ImageReading()

    def __init__(self, name: str, weights: Path | None) -> None:
        self._backbone = Backbone(name, pretrained=weights is None)
        if weights is not None:
            load_backbone_weights(self._backbone, weights)
        self._backbone.eval()

    @torch.inference_mode()
    def describe(self, image: NDArray[np.uint8]) -> Described:
        pixels = _pixels(image)
        mean, std = (
            torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (self._backbone.mean, self._backbone.std)
        )
        height, width = (_up(side, self._backbone.size_multiple) for side in pixels.shape[2:])
        padded = F.pad((pixels - mean) / std, (0, width - pixels.shape[3], 0, height - pixels.shape[2]))
        return Described(_pooled(self._backbone(padded)[-1:]))


@dataclass(frozen=True)
class Suggestion:
    """An image to label, and why."""

    image: Path
    distance: float
    """1 minus the cosine to the nearest image that is labelled or was suggested before; 0 to 2."""
    uncertainty: float
    novelty: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "image": str(self.image)}


def describe_all(
    describer: Describer, images: Sequence[Path], progress: Progress | None = None
) -> tuple[list[Path], list[Described], list[str]]:
    """Images that can be read, what they are, and why the others cannot be read."""
    readable, found, faults = [], [], []
    for number, path in enumerate(images, start=1):
        try:
            found.append(describer.describe(read_image(path, describer.reading)))
            readable.append(path)
        except DataError as error:
            faults.append(error.message)
        if progress is not None:
            progress(number, len(images))
    return readable, found, faults


def suggest(
    images: Sequence[Path], described: Sequence[Described], labeled: Sequence[Described], count: int
) -> list[Suggestion]:
    """Choose one image after the other: far from all that is labelled or chosen, unsure and strange.

    Args:
        images: to choose from.
        described: what they are.
        labeled: what is labelled already; without any, the first one chosen is the most typical.
        count: how many.

    Raises:
        UsageError: there are fewer images.
    """
    if count > len(images):
        raise UsageError(f"--count {count}: there are {len(images)} images to choose from", "Ask for fewer.")
    features = np.stack([each.feature for each in described])
    weight = 1 + _WEIGHT * (
        _ranks([each.uncertainty for each in described]) + _ranks([each.novelty for each in described])
    )
    distance = np.full(len(images), np.inf, np.float32)
    if labeled:
        distance = 1 - (features @ np.stack([each.feature for each in labeled]).T).max(axis=1)
    chosen: list[Suggestion] = []
    free = np.ones(len(images), np.bool_)
    for _ in range(count):
        if np.isinf(distance).any():
            place = int(np.argmax(features @ features.mean(axis=0)))
            reached = 0.0
        else:
            place = int(np.argmax(np.where(free, distance * weight, -np.inf)))
            reached = float(distance[place])
        one = described[place]
        chosen.append(Suggestion(images[place], round(reached, 4), round(one.uncertainty, 4), round(one.novelty, 4)))
        free[place] = False
        distance = np.minimum(distance, np.maximum(1 - features @ features[place], 0))
    return chosen


def _pixels(image: NDArray[np.uint8]) -> Tensor:
    """``[1,3,H,W]`` float32, 0 to 255, no side above `_MOST_SIDE`."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    longest = max(pixels.shape[2:])
    if longest > _MOST_SIDE:
        size = [max(1, side * _MOST_SIDE // longest) for side in pixels.shape[2:]]
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return pixels


def _pooled(maps: Sequence[Tensor]) -> Float32Array:
    """``[D]``: mean and deviation of each map over its pixels, each of them of equal length, together of length 1."""
    parts = [F.normalize(part[0], dim=0) for each in maps for part in (each.mean((2, 3)), each.std((2, 3)))]
    feature: Float32Array = F.normalize(torch.cat(parts), dim=0).numpy()
    return feature


def _hardest(values: Tensor) -> float:
    flat = values.flatten()
    return float(flat.topk(max(1, int(_HARDEST * flat.numel()))).values.mean())


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    """0 to 1 by order; equal values have equal ranks."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2
    ranks: NDArray[np.float64] = middle[places] / max(1, len(values) - 1) if len(counts) > 1 else np.zeros(len(values))
    return ranks


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def describer_of(text: str, weights: Path | None) -> tuple[Describer, RunFolder | None]:
    """A run folder, or the name of a timm model.

    Raises:
        ProtosegError: as `RunDescriber` and `BackboneDescriber`.
    """
    folder = Path(text)
    if (folder / "recipe.yaml").is_file() or folder.is_dir():
        return RunDescriber(folder), RunFolder(folder)
    return BackboneDescriber(text, weights), None
