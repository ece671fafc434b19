"""What shards cost: `protoseg predict --shards` against a plain pool of processes that does the same work.

The plain pool is what one would write in an afternoon: `multiprocessing.Pool`, spawned; each process opens the runtime
with one thread, and for every image it reads the file, takes its SHA-256, decodes it, predicts, counts classes and
writes a palette PNG. It has no plan, no rows, no notes, no atomic writing, and cannot resume. Chunks of images are as
large as the shards, so that both wait equally long for the last one.

Both are timed from the call to the end, start of the processes included, and once more without it: for that a run on
one image per worker is measured and subtracted. Rounds alternate, so that other load on the machine meets both; ratios
are those of the sums over all rounds. CPU seconds are measured too: on a machine that does other work at the same time
they say more than the clock. Every mask has to have the same bytes from both.

    python benchmarks/sharded_predict.py --runtime bundles/mine --images 2000 --size 256x256 --workers 2 --rounds 3
"""

import hashlib
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.cli.arguments import PATH, height_and_width, print_table
from protoseg_deploy.data.images import decode_image
from protoseg_deploy.evaluation.class_maps import count_pixels
from protoseg_deploy.evaluation.shards.predicting import Workforce, predict_sharded
from protoseg_deploy.evaluation.shards.spec import RuntimeChoice

_SHARDS_A_WORKER = 8
_opened: dict[str, Any] = {}


@click.command()
@click.option("--runtime", type=PATH, required=True, help="A bundle or an .onnx file.")
@click.option("--images", type=click.IntRange(min=16), default=2000, show_default=True)
@click.option("--size", type=height_and_width, default="256x256", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
def main(runtime: Path, images: int, size: tuple[int, int], workers: int, rounds: int) -> None:
    """Measure both, interleaved, on JPEGs of smooth noise."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        many, few = _make(folder / "many", images, size), _make(folder / "few", workers, size)
        spent: dict[str, list[Spent]] = {name: [] for name in ("plain", "sharded", "plain_start", "sharded_start")}
        for number in range(rounds):
            order = ("plain", "sharded") if number % 2 == 0 else ("sharded", "plain")
            for name in order:
                run = _plain if name == "plain" else _sharded
                for part, paths in ((f"{name}_start", few), (name, many)):
                    before = _now()
                    run(runtime, paths, folder / part, workers)
                    spent[part].append(_now() - before)
            _compare(folder / "plain", folder / "sharded")
            for part in spent:
                shutil.rmtree(folder / part)
    _print(spent, images, workers)


Spent = NDArray[np.float64]
"""Wall-clock seconds, and CPU seconds of this process and of those that have ended."""


def _now() -> Spent:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in used)])


def _make(folder: Path, count: int, size: tuple[int, int]) -> list[Path]:
    numbers = np.random.default_rng(0)
    folder.mkdir()
    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    for path in paths:
        coarse = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC).save(path)
    return paths


def _sharded(runtime: Path, images: Sequence[Path], out: Path, workers: int) -> None:
    choice = RuntimeChoice(str(runtime.absolute()), device="cpu")
    info = choice.open(threads=1).info
    result = predict_sharded(
        choice,
        info,
        [str(images[0].parent)],
        str(out),
        shards=_SHARDS_A_WORKER * workers,
        workforce=Workforce(workers=workers),
    )
    assert result.images == len(images)


def _plain(runtime: Path, images: Sequence[Path], out: Path, workers: int) -> None:
    choice = RuntimeChoice(str(runtime.absolute()), device="cpu")
    choice.open(threads=1)  # as the other does, to refuse what cannot be opened before processes are started
    (out / "index").mkdir(parents=True)
    chunk = max(1, -(-len(images) // (_SHARDS_A_WORKER * workers)))
    with multiprocessing.get_context("spawn").Pool(workers, _open, (str(runtime.absolute()),)) as pool:
        tasks = [(str(path), str(out / "index" / f"{path.stem}.png")) for path in images]
        counted = sum(1 for _ in pool.imap_unordered(_predict, tasks, chunksize=chunk))
    assert counted == len(images)


def _open(runtime: str) -> None:
    _opened["runtime"] = RuntimeChoice(runtime, device="cpu").open(threads=1)


def _predict(task: tuple[str, str]) -> tuple[str, tuple[int, ...]]:
    image, mask = task
    runtime = _opened["runtime"]
    content = Path(image).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    class_map = runtime.predict(decode_image(content, image, runtime.info.reading)[None])[0]
    counts = count_pixels(class_map, len(runtime.info.classes))
    picture = Image.fromarray(class_map)
    picture.putpalette(np.array(runtime.info.classes.colors, np.uint8).tobytes())
    encoded = BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    Path(mask).write_bytes(encoded.getvalue())
    return digest, counts


def _compare(plain: Path, sharded: Path) -> None:
    for path in (plain / "index").iterdir():
        assert path.read_bytes() == (sharded / "index" / path.name).read_bytes(), path


def _print(spent: dict[str, list[Spent]], images: int, workers: int) -> None:
    totals = {name: sum(values) for name, values in spent.items()}
    work = {name: totals[name] - totals[f"{name}_start"] for name in ("plain", "sharded")}
    number = images * len(spent["plain"])
    rows = [
        (name, *(f"{number / part[name][0]:.1f}" for part in (totals, work)), f"{1e3 * work[name][1] / number:.2f}")
        for name in work
    ]
    print_table(("", "images/s", "without start", "CPU ms an image"), rows, f"{images} images, {workers} workers")
    (whole, _), (wall, cpu) = (part["plain"] / part["sharded"] for part in (totals, work))
    ratios = {"ratio": whole, "ratio_without_start": wall, "ratio_of_cpu_without_start": cpu}
    seconds = {name: [value.round(2).tolist() for value in values] for name, values in spent.items()}
    click.echo(json.dumps({"images": images, "workers": workers, "wall_and_cpu_s": seconds, **ratios}))


if __name__ == "__main__":
    main()
