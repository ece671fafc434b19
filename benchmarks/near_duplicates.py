"""How many near-duplicates are found, and how many false ones: the table of docs/own-data.md.

    python benchmarks/near_duplicates.py FOLDER... [--speed 100000]

Of every image in the folders one changed copy is made of each kind and searched among all originals. Found: the copy is
paired with its own original. False: copies that are paired with an original of another scene. Frames of one video, told
by a part of their names (--scene), are no other scenes.
"""

import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageEnhance

from protoseg_deploy.data.images import read_image
from protoseg_deploy.data.similarity import find_similar
from protoseg_deploy.data.similarity.thumbnails import SIDE, read_thumbnails
from protoseg_deploy.recipe import ImageReading

PATH = click.Path(path_type=Path, exists=True)


def _jpeg(image: Image.Image) -> Image.Image:
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=20)
    return Image.open(stored).convert("RGB")


def _cropped(image: Image.Image, share: float) -> Image.Image:
    width, height = image.size
    left, top = int(width * share * 0.3), int(height * share * 0.7)
    return image.crop((left, top, left + int(width * (1 - share)), top + int(height * (1 - share))))


def _next_frame(image: Image.Image) -> Image.Image:
    """Closer by 4 % and moved by 2 %, with other noise."""
    width, height = image.size
    part = image.crop((int(0.03 * width), int(0.02 * height), int(0.99 * width), int(0.98 * height)))
    values = np.asarray(part.resize((width, height)), np.float32)
    noisy = values + np.random.default_rng(0).normal(0, 6, values.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG of quality 20": _jpeg,
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "brightened by 40 %": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "10 % cropped off": lambda image: _cropped(image, 0.1),
    "20 % cropped off": lambda image: _cropped(image, 0.2),
    "next video frame (made)": _next_frame,
}


@click.command()
@click.argument("folders", nargs=-1, required=True, type=PATH)
@click.option("--scene", default="(.*)", show_default=True, help="Pattern; its group in the stem is the scene.")
@click.option("--speed", type=int, default=0, help="Also time pairs among so many random pictures.")
def main(folders: tuple[Path, ...], scene: str, speed: int) -> None:
    """Print the table as Markdown."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in (".png", ".jpg"))
    scenes = [match[1] if (match := re.match(scene, path.stem)) else path.stem for path in paths]
    originals = read_thumbnails(paths, ImageReading()).pixels
    click.echo(f"{len(paths)} images\n\n| change | found % | false % |\n|---|---|---|")
    for name, change in CHANGES.items():
        copies = np.stack([_thumbnail(change(Image.fromarray(read_image(path)))) for path in paths])
        pairs = find_similar(copies, originals)
        found = {pair.first for pair in pairs if pair.first == pair.second}
        false = {pair.first for pair in pairs if scenes[pair.first] != scenes[pair.second]}
        click.echo(f"| {name} | {100 * len(found) / len(paths):.1f} | {100 * len(false) / len(paths):.1f} |")
    if speed:
        pictures = np.random.default_rng(0).integers(0, 256, (speed, 8, 8), dtype=np.uint8)
        pictures = pictures.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
        pictures[1::1000] = pictures[::1000]
        begin = time.perf_counter()
        found_pairs = find_similar(pictures)
        click.echo(f"\n{speed} pictures: {len(found_pairs)} pairs in {time.perf_counter() - begin:.1f} s")


def _thumbnail(image: Image.Image) -> np.ndarray:
    return np.array(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX))


if __name__ == "__main__":
    main()
