"""What the prototypes of a run stand for: the patches of images that are nearest to each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.data import Sample, read_image, read_mask
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.models import Segmenter, load_network, load_prototypes, scale_images
from protoseg_deploy.recipe import ClassTable, MaskReading
from protoseg_deploy.reporting.album import Album
from protoseg_deploy.reporting.facts import RunFacts
from protoseg_deploy.training import Run

UInt8Array = NDArray[np.uint8]

_MOST_PATCHES = 400
"""On a page, for one run."""
_PER_PROTOTYPE = 4
_PATCH = 64
"""Pixels of the page."""


@dataclass(frozen=True)
class Patch:
    """Part of an image around the place whose features are nearest to a prototype."""

    picture: int
    file: str
    cosine: float
    truth: str
    """Class there, as its mask says; empty for ignored pixels and images without masks."""


@dataclass(frozen=True)
class PrototypeFacts:
    """One prototype."""

    number: int
    share_percent: float | None
    """Of the pixels of its class that moved a prototype since the evaluation before; None: nobody counted."""
    patches: tuple[Patch, ...]
    state: str
    """``used``, ``unused`` since the evaluation before, or ``absent``: it was never placed."""


@dataclass(frozen=True)
class ClassPrototypes:
    """The prototypes of one class."""

    name: str
    color: tuple[int, int, int]
    within_class_cosine: float | None
    dead: int
    """How many no pixel has moved for 1,000 steps."""
    prototypes: tuple[PrototypeFacts, ...]


@dataclass(frozen=True)
class PrototypeBankFacts:
    """The bank of a run."""

    name: str
    step: int | None
    """Of the evaluation that counted their use; None: none did."""
    classes: tuple[ClassPrototypes, ...]
    searched_images: int
    """In how many images the nearest patches were looked for."""
    without_patches: int = 0
    """Prototypes whose patches are left out, for a page has room for so many only."""


@dataclass(frozen=True)
class _Place:
    sample: Sample
    row: int
    column: int
    cosine: float
    reach: int
    """Half the side of the patch, in pixels of the image."""


def has_bank(run: RunFacts) -> bool:
    """Whether a run has left a prototype bank beside its best network."""
    folder = Run(run.folder)
    return folder.prototypes.is_file() and folder.best.is_file()


def prototype_facts(
    run: RunFacts,
    samples: Sequence[Sample],
    masks: MaskReading,
    album: Album,
    progress: Callable[[], object] | None = None,
) -> PrototypeBankFacts:
    """Look for the patches that are nearest to each prototype of a run.

    A patch is the place of an image whose feature has the largest cosine with the prototype; an image gives one patch
    to a prototype at most.

    Args:
        run: with a bank, see `has_bank`.
        samples: images to look in; none leaves the patches out.
        masks: how their masks are read.
        album: gets the pictures.
        progress: called after each image.

    Raises:
        ProtosegError: the bank or the network is damaged, they do not belong together, or an image cannot be read.
    """
    folder = Run(run.folder)
    segmenter, spec = load_network(folder.best)
    bank = load_prototypes(folder.prototypes).float()
    features = run.recipe.method.prototypes.features
    if bank.ndim != 3 or bank.shape[0] != len(spec.classes) or bank.shape[2] != segmenter.feature_channels(features):
        raise ProtosegError(
            f"{folder.prototypes} holds prototypes of shape {list(bank.shape)}, which do not belong to {folder.best}",
            "Put both back from a copy of the run.",
        )
    per_prototype = max(1, min(_PER_PROTOTYPE, _MOST_PATCHES // (bank.shape[0] * bank.shape[1])))
    places: list[list[_Place]] = [[] for _ in range(bank.shape[0] * bank.shape[1])]
    for sample in samples:
        image = read_image(sample.image, spec.reading)
        for found, place in zip(places, _nearest(segmenter, spec.input_scale, bank, features, image), strict=True):
            found.append(_Place(sample, *place))
            found.sort(key=lambda each: -each.cosine)
            del found[per_prototype:]
        if progress is not None:
            progress()
    left = _MOST_PATCHES if samples else 0
    shown = [found if (number + 1) * per_prototype <= left else [] for number, found in enumerate(places)]
    cutter = _Cutter(spec.reading, masks, spec.classes, album)
    described = _described(run, spec.classes, bank, shown, len(samples), cutter)
    return replace(described, without_patches=sum(not found for found in shown) if samples else 0)


class _Cutter:
    """Cuts patches out of images; the last image is kept, for neighbouring places are often in the same one."""

    def __init__(self, reading: object, masks: MaskReading, classes: ClassTable, album: Album) -> None:
        self._reading, self._masks, self._classes, self._album = reading, masks, classes, album

    def cut(self, place: _Place) -> Patch:
        """The patch around a place, and what the mask says there."""
        from PIL import Image

        image = read_image(place.sample.image, self._reading)  # type: ignore[arg-type]
        side = min(2 * place.reach, *image.shape[:2])
        top = min(max(0, place.row - side // 2), image.shape[0] - side)
        left = min(max(0, place.column - side // 2), image.shape[1] - side)
        patch = Image.fromarray(image[top : top + side, left : left + side]).resize((_PATCH, _PATCH))
        number = self._album.photo(np.asarray(patch), fixed=True)
        return Patch(number, place.sample.image.name, place.cosine, self._truth(place))

    def _truth(self, place: _Place) -> str:
        if place.sample.mask is None:
            return ""
        mask = read_mask(place.sample.mask, self._masks)
        inside = place.row < mask.shape[0] and place.column < mask.shape[1]
        index = int(mask[place.row, place.column]) if inside else self._masks.ignore_index
        return self._classes.names[index] if index < len(self._classes) else ""


@torch.inference_mode()
def _nearest(
    segmenter: Segmenter, input_scale: float, bank: Tensor, features: str, image: UInt8Array
) -> list[tuple[int, int, float, int]]:
    """For each prototype the row, column and cosine of the nearest feature, and half the side of a patch there."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).float().permute(2, 0, 1)[None]
    output = segmenter.forward_features(scale_images(pixels, input_scale))
    found = output.embedding if features == "decoder_concat" else output.head_input
    height, width = found.shape[-2:]
    stride_y, stride_x = output.padded_size[0] / height, output.padded_size[1] / width
    # What lies in the padding is no part of the image.
    rows = max(1, min(height, round(output.image_size[0] / stride_y)))
    columns = max(1, min(width, round(output.image_size[1] / stride_x)))
    directions = F.normalize(found[0, :, :rows, :columns].float().flatten(1), dim=0)
    cosines = bank.flatten(0, 1) @ directions
    best, where = cosines.max(dim=1)
    y = ((where // columns + 0.5) * stride_y * image.shape[0] / output.image_size[0]).long()
    x = ((where % columns + 0.5) * stride_x * image.shape[1] / output.image_size[1]).long()
    reach = max(16, round(max(stride_y, stride_x) / input_scale * 2), min(image.shape[:2]) // 12)
    y, x = y.clamp(max=image.shape[0] - 1), x.clamp(max=image.shape[1] - 1)
    return [
        (row, column, cosine, reach) for row, column, cosine in zip(y.tolist(), x.tolist(), best.tolist(), strict=True)
    ]


def _described(
    run: RunFacts, classes: ClassTable, bank: Tensor, shown: list[list[_Place]], searched: int, cutter: _Cutter
) -> PrototypeBankFacts:
    use = run.prototypes
    shape = tuple(bank.shape[:2])
    if use is not None and {(len(use.pixels), len(row)) for row in use.pixels} | {(len(use.dead), shape[1])} != {shape}:
        use = None
    present = bank.any(dim=-1)
    per_class = bank.shape[1]
    cosines = (bank @ bank.transpose(1, 2)).tolist()
    described = []
    for index, name in enumerate(classes.names):
        there = [number for number in range(per_class) if present[index, number]]
        pairs = [cosines[index][one][other] for one in there for other in there if one < other]
        pixels = use.pixels[index] if use else None
        prototypes = []
        for number in range(per_class):
            count = None if pixels is None else pixels[number]
            state = "absent" if number not in there else "unused" if count == 0 else "used"
            share = None if pixels is None or count is None else 100.0 * count / max(1.0, sum(pixels))
            places = shown[index * per_class + number] if state != "absent" else []
            prototypes.append(PrototypeFacts(number, share, tuple(map(cutter.cut, places)), state))
        described.append(
            ClassPrototypes(
                name,
                classes.colors[index],
                sum(pairs) / len(pairs) if pairs else None,
                use.dead[index] if use else 0,
                tuple(prototypes),
            )
        )
    return PrototypeBankFacts(run.name, use.step if use else None, tuple(described), searched)
