"""A million unlabelled files: what `protoseg train` does with them before its first step, and what they cost in memory.

A pool is made of hard links to copies of one small JPEG, so that a million files need little space; names and folders
are as real as any. Nothing that is measured opens more than a sample of the files, so that it does not matter that
they share their contents. What takes time is listing folders, sorting and writing names the first time (*cold*: there
is no index in the cache), and one `stat` per folder afterwards (*warm*). Cold does not mean that the operating system
has forgotten the folders: it has just made them.

Each figure is of a fresh process. Memory is the proportional set size (PSS) of the data-loader workers, which counts a
page that n processes map as one n-th in each. The index counts with at most its size, 34 bytes a file here, over the
number of processes. It is read twice: with forked processes, as Linux has them by default, and with spawned ones, which
share nothing by inheritance, and whose first batch comes when they have imported torch.

    python benchmarks/large_pool.py --files 1000000 --folder /tmp/pool
    python benchmarks/large_pool.py --files 1000000 --folder /tmp/pool --layout flat
"""

import json
import multiprocessing
import os
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from protoseg_deploy.cli.arguments import PATH, print_table

_IN_A_FOLDER = 1_000
_LINKS = 50_000
"""File systems allow so many links to one file: 65,000 on ext4."""
_SETTLE_SECONDS = 3
_STEPS = 20


@click.command()
@click.option("--files", type=click.IntRange(min=1000), default=1_000_000, show_default=True)
@click.option("--folder", type=PATH, required=True, help="New folder for the files; removed afterwards.")
@click.option("--layout", type=click.Choice(["folders", "flat"]), default="folders", show_default=True)
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Data-loader workers.")
def main(files: int, folder: Path, layout: str, workers: int) -> None:
    """Measure the start of training and its memory with a pool of many files, and with a hundredth of them."""
    folder.mkdir(parents=True)
    try:
        results = [_measure(folder / str(count), count, layout, workers) for count in (files // 100, files)]
    finally:
        shutil.rmtree(folder)
    _print(results, layout)


def _measure(root: Path, files: int, layout: str, workers: int) -> dict[str, Any]:
    begin = time.perf_counter()
    _make(root, files, layout)
    made = time.perf_counter() - begin
    time.sleep(_SETTLE_SECONDS)  # folders modified a moment ago are looked at again
    os.environ["PROTOSEG_CACHE"] = str(root / "cache")
    starts = {}
    for name, method in (("cold", "fork"), ("warm", "fork"), ("warm_spawned", "spawn")):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            starts[name] = fresh.submit(_start, root, method, workers, root / f"run-{name}").result()
    index_bytes = sum(file.stat().st_size for file in (root / "cache").iterdir()) if (root / "cache").is_dir() else 0
    return {"files": files, "made_seconds": round(made, 1), "index_mb": round(index_bytes / 1e6, 1), **starts}


def _make(root: Path, files: int, layout: str) -> None:
    """Four labelled images with masks, two for validation, and `files` unlabelled ones."""
    numbers = np.random.default_rng(0)
    for part, count in (("labeled", 4), ("val", 2)):
        for number in range(count):
            for kind, values in (("images", (120, 160, 3)), ("masks", (120, 160))):
                (root / part / kind).mkdir(parents=True, exist_ok=True)
                pixels = numbers.integers(0, 2 if kind == "masks" else 256, values, dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / kind / f"{number}.png")
    original = root / "original.jpg"
    Image.fromarray(numbers.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((160, 120)).save(original)
    copy = original
    for number in range(files):
        if number % _LINKS == 0:
            copy = root / f"original-{number}.jpg"
            shutil.copy(original, copy)
        below = f"{number // _IN_A_FOLDER:05}/" if layout == "folders" else ""
        if number == 0 or (below and number % _IN_A_FOLDER == 0):
            (root / "pool" / below).mkdir(parents=True)
        os.link(copy, f"{root}/pool/{below}camera-{number:08}.jpg")


def _start(root: Path, method: str, workers: int, run: Path) -> dict[str, Any]:
    """All that happens to the pool before the first step, in this process, and the loaders after some steps."""
    import torch

    from protoseg_deploy.data import check_before_training, find_data
    from protoseg_deploy.data.loading import TrainingBatches
    from protoseg_deploy.data.workers import training_loader
    from protoseg_deploy.recipe import recipe_from_dict
    from protoseg_deploy.training.run import Run

    torch.set_num_threads(1)
    torch.multiprocessing.set_start_method(method, force=True)
    parts = {name: {"images": f"{name}/images", "masks": f"{name}/masks"} for name in ("labeled", "val")}
    recipe = recipe_from_dict(
        {
            "data": {
                "root": str(root),
                **parts,
                "unlabeled": {"images": "pool"},
                "classes": ["a", "b"],
                "cache_mib": 0,  # what a loader holds is to be the pool's names, not its images
            },
            "train": {"crop": 64, "steps": _STEPS, "batch_labeled": 2, "batch_unlabeled": 4},
        },
        "benchmark",
    )
    seconds = {}
    clock = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal clock
        seconds[stage] = round(time.perf_counter() - clock, 3)
        clock = time.perf_counter()

    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    lap("find")
    check_before_training(recipe, sets)
    lap("check")
    Run(run).start(recipe, sets)
    lap("run")
    loader = iter(training_loader(TrainingBatches(recipe, sets.labeled, sets.unlabeled), 0, workers, pin_memory=False))
    next(loader)
    lap("first_batch")
    total = round(sum(seconds.values()), 3)
    for _ in range(_STEPS // 2):
        next(loader)
    processes = [process.pid for process in multiprocessing.active_children() if process.pid is not None]
    pss_mb = [_pss_mb(process) for process in processes]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    for _ in loader:  # a loader that is left in the middle of its work kills its processes, and says so
        pass
    return {"seconds": seconds | {"total": total}, "worker_pss_mb": pss_mb, "main_peak_mb": round(peak_mb, 1)}


def _pss_mb(process: int) -> float:
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3, 1)


def _print(results: list[dict[str, Any]], layout: str) -> None:
    rows = [
        (f"{result['files']:,}", name.replace("_", ", "), *seconds.values(), *_memory(result[name]))
        for result in results
        for name in ("cold", "warm", "warm_spawned")
        for seconds in [result[name]["seconds"]]
    ]
    columns = ("files", "start", "find s", "check s", "run s", "first batch s", "total s", "PSS a worker MB", "peak MB")
    print_table(columns, rows, f"Start of training, {layout}")
    click.echo(json.dumps({"layout": layout, "cores": os.cpu_count(), "pools": results}))


def _memory(start: dict[str, Any]) -> tuple[float, float]:
    return round(sum(start["worker_pss_mb"]) / len(start["worker_pss_mb"]), 1), start["main_peak_mb"]


if __name__ == "__main__":
    main()
