"""Views for semi-supervised training against the plain way of making them with PIL, on one core.

A *pair* is what every slot of a step needs: a labelled image (decoded image and mask, weak view) and an unlabelled one
(decoded image, weak view, strong view). All pipelines end with uint8 tensors and draw the same resize, crop and flip.

- *plain*: decode, resize the whole image and mask, flip, colour jitter, grey and blur of the whole resized image with
  torchvision's transforms of PIL images, then crop. This is how public research code works.
- *crop first*: the same, but jitter, grey and blur see the crop only; for information.
- *ours*: decode, resize the window that ends up in the crop, one colour matrix and a blur of the crop.

Physics. Nobody can avoid decoding: a JPEG's pixels depend on all before them, a PNG's even on those of all lines above.
It bounds the ratio, the more so the larger the images and the smaller the crops. The rest is proportional to pixels:
those of the resized image the plain way (1.75 times those of the file on average for a resize of 0.5 to 2), at most
those of the crop our way. PIL's hue is the dearest single change, it goes to HSV and back; its blur is six passes over
the image. Scenes of the package's own generator stand for photographs: their size counts, not what they show.

The pipelines take turns in one run; a ratio is the median of the ratios within rounds. Stages are medians over rounds;
for ours, blur is what the strong view takes more than one without blur. The last line is JSON.

    python benchmarks/view_generation.py
    python benchmarks/view_generation.py --images MY/IMAGES --crops 513
"""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import ColorJitter, RandomGrayscale

from protoseg_deploy.benchmarking.turns import Times, medians
from protoseg_deploy.cli.arguments import PATH, print_table
from protoseg_deploy.data import IMAGE_SUFFIXES, image_size, read_image, read_mask
from protoseg_deploy.data.photometric import augment, draw_augmentation
from protoseg_deploy.data.scenes import Scene, scene_of_split
from protoseg_deploy.data.views import weak_view
from protoseg_deploy.recipe import ImageReading, MaskReading, Train

_SMALL, _LARGE = (375, 500), (1024, 2048)
"""Height and width of Pascal VOC's and of Cityscapes' images."""
_LARGE_CROP = 600
"""Crops above it are made from large images."""
_IGNORE = 255


@dataclass(frozen=True)
class Photo:
    """An image and its mask."""

    image: Path
    mask: Path


class Stages:
    """Milliseconds of the stages of one round."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = defaultdict(float)
        self._since = time.perf_counter()

    def start(self) -> None:
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.taken[stage] += 1000 * (now - self._since)
        self._since = now


class Plain:
    """The plain way.

    Args:
        spec: crop and range of the resize.
        crop_first: augment the crop, not the whole image.
    """

    def __init__(self, spec: Train, *, crop_first: bool) -> None:
        self.spec = spec
        self.crop_first = crop_first
        self.jitter = ColorJitter(0.5, 0.5, 0.5, 0.25)
        self.grey = RandomGrayscale(0.2)

    def pair(self, labeled: Photo, unlabeled: Photo, stages: Stages) -> list[Tensor]:
        image, mask = Image.open(labeled.image).convert("RGB"), Image.open(labeled.mask)
        mask.load()
        stages.lap("decode")
        image, mask, box = self._geometry(image, mask)
        views = [_to_tensor(image.crop(box)), torch.from_numpy(np.array(mask.crop(box)))]
        stages.lap("geometry")
        image = Image.open(unlabeled.image).convert("RGB")
        stages.lap("decode")
        image, mask, box = self._geometry(image, Image.new("L", image.size))
        weak = image.crop(box)
        strong = weak if self.crop_first else image
        stages.lap("geometry")
        jitter, blur, sigma = torch.rand(3).tolist()
        if jitter < 0.8:
            strong = self.jitter(strong)
        strong = self.grey(strong)
        stages.lap("colour")
        if blur < 0.5:
            strong = strong.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * sigma))
        stages.lap("blur")
        strong = strong if self.crop_first else strong.crop(box)
        views += [_to_tensor(weak), _to_tensor(strong), torch.from_numpy(np.array(mask.crop(box)))]
        stages.lap("geometry")
        return views

    def _geometry(self, image: Any, mask: Any) -> tuple[Any, Any, tuple[int, int, int, int]]:
        """Image and mask resized, padded and flipped, and the box of the crop."""
        crop, (lowest, highest) = self.spec.crop, self.spec.scale
        scale, where_y, where_x, coin = torch.rand(4).tolist()
        scale = lowest + scale * (highest - lowest)
        width, height = round(image.width * scale), round(image.height * scale)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
        if coin < 0.5:
            image, mask = (layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in (image, mask))
        if min(width, height) < crop:
            padded = (max(width, crop), max(height, crop))
            image, mask = _padded(image, padded, (124, 116, 104)), _padded(mask, padded, _IGNORE)
        left, top = int(where_x * (image.width - crop + 1)), int(where_y * (image.height - crop + 1))
        return image, mask, (left, top, left + crop, top + crop)


class Ours:
    """The package's own functions, as its loader calls them on a CPU."""

    def __init__(self, spec: Train) -> None:
        self.spec = spec

    def pair(self, labeled: Photo, unlabeled: Photo, stages: Stages) -> list[Tensor]:
        pixels, mask = read_image(labeled.image, ImageReading()), read_mask(labeled.mask, MaskReading())
        stages.lap("decode")
        first = weak_view(_channels_first(pixels), torch.from_numpy(mask), self.spec, _IGNORE)
        stages.lap("geometry")
        pixels = read_image(unlabeled.image, ImageReading())
        stages.lap("decode")
        second = weak_view(_channels_first(pixels), None, self.spec, _IGNORE)
        valid = second.mask == 0
        stages.lap("geometry")
        changes = draw_augmentation()[None]
        strong = augment(second.image[None], changes)[0]
        stages.lap("colour, blur")
        return [first.image, first.mask, second.image, strong, valid]

    def sharp_ms(self, views: Sequence[Tensor]) -> float:
        """Of a strong view without blur."""
        changes = draw_augmentation()[None]
        changes[:, -1] = 0
        begin = time.perf_counter()
        augment(views[2][None], changes)
        return 1000 * (time.perf_counter() - begin)


def measure(photos: Sequence[Photo], crop: int, rounds: int, pairs: int) -> dict[str, Any]:
    """All pipelines in turns; figures are of one pair."""
    spec = Train(crop=crop)
    ours = Ours(spec)
    pipelines: dict[str, Callable[[Photo, Photo, Stages], list[Tensor]]] = {
        "plain": Plain(spec, crop_first=False).pair,
        "crop first": Plain(spec, crop_first=True).pair,
        "ours": ours.pair,
    }
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in pipelines}
    for number in range(rounds + 1):
        for name, pair in pipelines.items():
            stages, sharp = Stages(), 0.0
            for index in range(pairs):
                key = number * pairs + index
                torch.manual_seed(key)
                stages.start()
                views = pair(photos[key % len(photos)], photos[(key + 1) % len(photos)], stages)
                if name == "ours":
                    sharp += ours.sharp_ms(views)
            taken = dict(stages.taken)
            if name == "ours":
                both = taken.pop("colour, blur")
                taken |= {"colour": min(sharp, both), "blur": max(0.0, both - sharp)}
            if number:  # the first round warms up
                samples[name].append({stage: milliseconds / pairs for stage, milliseconds in taken.items()})
    times = {name: Times(tuple(sum(sample.values()) for sample in samples[name])) for name in pipelines}
    return {
        name: {
            "pair_ms": round(times[name].median_ms, 2),
            "images_per_s": round(2000 / times[name].median_ms, 1),
            "ours_times_as_fast": round(times[name].over(times["ours"]), 2),
            "stages_ms": {stage: round(value, 2) for stage, value in medians(samples[name]).items()},
        }
        for name in pipelines
    }


def write_photos(folder: Path, size: tuple[int, int], suffix: str, count: int) -> list[Photo]:
    """Scenes of a size with their masks."""
    photos = []
    for number in range(count):
        scene = _scene(number, size)
        photo = Photo(folder / f"{number}{suffix}", folder / f"{number}_mask.png")
        folder.mkdir(exist_ok=True)
        Image.fromarray(scene.image).save(photo.image, **({"quality": 90} if suffix == ".jpg" else {}))
        Image.fromarray(scene.mask).save(photo.mask)
        photos.append(photo)
    return photos


@cache
def _scene(number: int, size: tuple[int, int]) -> Scene:
    return scene_of_split("unlabeled", number, size=size)


def photos_of(folder: Path, scratch: Path, limit: int = 64) -> list[Photo]:
    """A user's images, each with a mask of large blocks."""
    images = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)[:limit]
    if not images:
        raise click.ClickException(f"{folder} holds no images")
    photos = []
    for number, image in enumerate(images):
        height, width = image_size(image, ImageReading())
        blocks = np.add.outer(np.arange(height) // 64, np.arange(width) // 64) % 19
        photos.append(Photo(image, scratch / f"{number}_mask.png"))
        Image.fromarray(blocks.astype(np.uint8)).save(photos[-1].mask)
    return photos


def cases(crops: Sequence[int], folder: Path | None, scratch: Path) -> Iterator[tuple[int, str, list[Photo]]]:
    """Crop, what is cropped, and the images."""
    if folder is not None:
        photos = photos_of(folder, scratch)
        yield from ((crop, folder.name, photos) for crop in crops)
        return
    written: dict[str, list[Photo]] = {}
    for crop in crops:
        size, suffixes = (_LARGE, (".jpg", ".png")) if crop > _LARGE_CROP else (_SMALL, (".jpg",))
        for suffix in suffixes:
            name = f"{size[1]}x{size[0]} {suffix[1:].upper()}"
            if name not in written:
                written[name] = write_photos(scratch / name, size, suffix, 2 if size == _LARGE else 8)
            yield crop, name, written[name]


def _padded(layer: Any, size: tuple[int, int], color: Any) -> Any:
    padded = Image.new(layer.mode, size, color)
    padded.paste(layer)
    return padded


def _to_tensor(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _channels_first(pixels: Any) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


@click.command()
@click.option("--crops", default="321,513,801", show_default=True, help="Sides of the crops, separated by commas.")
@click.option("--images", "folder", type=PATH, help="Folder of images in place of drawn ones.")
@click.option("--rounds", type=click.IntRange(min=2), default=7, show_default=True)
@click.option("--pairs", type=click.IntRange(min=1), default=8, show_default=True, help="In each round.")
@click.option("--json", "as_json", is_flag=True, help="No tables.")
def main(crops: str, folder: Path | None, rounds: int, pairs: int, as_json: bool) -> None:
    """Compare the package's views with plain PIL ones, on one thread."""
    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for crop, source, photos in cases([int(crop) for crop in crops.split(",")], folder, Path(scratch)):
            pipelines = measure(photos, crop, rounds, pairs)
            results.append({"crop": crop, "images": source, "pipelines": pipelines})
            if not as_json:
                _print(crop, source, pipelines)
    click.echo(json.dumps({"threads": 1, "rounds": rounds, "pairs": pairs, "cases": results}))


def _print(crop: int, source: str, pipelines: dict[str, Any]) -> None:
    stages = ("decode", "geometry", "colour", "blur")
    rows = [
        (
            name,
            f"{result['pair_ms']:.1f}",
            *(f"{result['stages_ms'][stage]:.1f}" for stage in stages),
            f"{result['images_per_s']:.0f}",
            f"{result['ours_times_as_fast']:.2f}x",
        )
        for name, result in pipelines.items()
    ]
    columns = ("", "pair", *stages, "images/s", "ours")
    print_table(columns, rows, f"Crops of {crop} from {source}; milliseconds per pair; how many times as fast ours is")


if __name__ == "__main__":
    main()
