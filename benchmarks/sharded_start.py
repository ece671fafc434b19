"""The start of a sharded prediction of a million images: how long until the first shard, and what it takes in memory.

Each form is measured in a fresh process: a manifest (text, CSV, JSON lines, Parquet) of files that need not exist, as
nothing looks at them before their shard, and optionally a folder of a million hard links. What is timed is what happens
before the first shard is handed out: the names are read, made unique, cut into shards and written as a plan; then the
same again, as a resumed prediction does it to compare. Memory is the growth of the peak resident size over what the
imports take, for the whole number and for a hundredth of it: flat means that the two hardly differ.

    python benchmarks/sharded_start.py --images 1000000
    python benchmarks/sharded_start.py --images 1000000 --folder /tmp/links
"""

import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from protoseg_deploy.cli.arguments import PATH, print_table
from protoseg_deploy.evaluation.shards.listing import list_images
from protoseg_deploy.evaluation.shards.plan import PlanReader, make_plan

_IN_A_FOLDER = 1000
_LINKS = 50_000
_AT_ONCE = 100_000


@click.command()
@click.option("--images", type=click.IntRange(min=1000), default=1_000_000, show_default=True)
@click.option("--folder", type=PATH, help="New folder for as many hard links, removed afterwards.")
def main(images: int, folder: Path | None) -> None:
    """Measure the start with many images, and with a hundredth of them."""
    results = []
    with tempfile.TemporaryDirectory() as text:
        for count in (images // 100, images):
            for form in ("txt", "csv", "jsonl", "parquet"):
                manifest = Path(text) / f"{count}.{form}"
                _write(manifest, count)
                results.append(_measured(form, count, [], str(manifest)))
    if folder is not None:
        for count in (images // 100, images):
            _link(folder, count)
            try:
                results.append(_measured("folder", count, [str(folder)], None))
            finally:
                shutil.rmtree(folder)
    rows = [(f"{r['images']:,}", r["form"], r["shards"], *(f"{r[key]:.1f}" for key in _SHOWN)) for r in results]
    print_table(("images", "form", "shards", "start s", "again s", "peak growth MB", "plan MB"), rows)
    click.echo(json.dumps({"cores": os.cpu_count(), "starts": results}))


_SHOWN = ("start_s", "again_s", "growth_mb", "plan_mb")


def _name(number: int) -> str:
    return f"{number // _IN_A_FOLDER:05}/camera-{number:08}.jpg"


def _write(manifest: Path, count: int) -> None:
    names = (_name(number) for number in range(count))
    if manifest.suffix == ".parquet":
        with pq.ParquetWriter(
            manifest, pa.schema([("image", pa.string())])
        ) as writer:  # what is started inherits a peak
            while part := list(islice(names, _AT_ONCE)):
                writer.write_table(pa.table({"image": part}))
        return
    with manifest.open("w") as file:
        if manifest.suffix == ".csv":
            file.write("image\n")
        as_line = json.dumps if manifest.suffix == ".jsonl" else None
        file.writelines(f"{as_line({'image': name}) if as_line else name}\n" for name in names)


def _link(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    copy = folder / ".original"
    for number in range(count):
        if number % _LINKS == 0:
            copy = folder / f".original-{number}"
            Image.new("RGB", (16, 16)).save(copy, "JPEG")
        path = folder / _name(number)
        if number % _IN_A_FOLDER == 0:
            path.parent.mkdir()
        os.link(copy, path)


def _measured(form: str, count: int, inputs: list[str], manifest: str | None) -> dict[str, Any]:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
        return {"form": form, "images": count, **fresh.submit(_start, inputs, manifest).result()}


def _start(inputs: list[str], manifest: str | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as text:
        file = Path(text) / "plan.parquet"
        before = _peak_mb()
        begin = time.perf_counter()
        plan = make_plan(list_images(inputs, manifest), file, shards=None, dotless=False)
        first = PlanReader(str(file)).rows(0)
        start = time.perf_counter() - begin
        growth = _peak_mb() - before
        assert len(first) == plan.size(0)
        begin = time.perf_counter()
        again = make_plan(list_images(inputs, manifest), Path(text) / "again.parquet", shards=None, dotless=False)
        assert again == plan
        return {
            "shards": plan.shards,
            "start_s": start,
            "again_s": time.perf_counter() - begin,
            "growth_mb": growth,
            "plan_mb": file.stat().st_size / 1e6,
        }


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
