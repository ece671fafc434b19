#!/usr/bin/env python3
"""Build, verify and measure a bundle on the device that will run it, and bring back one JSON file.

    python3 edge.py bundle --images photos --out pi5.json
    python3 edge.py bundle --images photos --masks masks --reference masks-home --precision fp32 int8 --out pi5.json
    python3 edge.py bundle --images photos --build fp16 --size 512x1024 --out orin.json

and at home

    protoseg bench --read pi5.json --read orin.json

Needs Python 3.10, NumPy, Pillow and ONNX Runtime or TensorRT; neither PyTorch nor an installed protoseg.

Every artefact is compared with the class maps in --reference (the folder ``index`` of `protoseg predict --out`), or
else with those of the fp32 graph on the CPU of this device. Then all are timed alternately, from arrays to arrays and
from files, as `protoseg bench` does. Power mode, clocks, limits and energy are noted where the device tells them.

Exit codes: 0 success; 1 failure, or an artefact that does not segment as it should; 2 invalid command line; 3 with
--strict if a latency is not steady.
"""

import argparse
import gc
import json
import math
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import numpy as np
    from PIL import Image
except ImportError as missing:
    sys.exit(f"Error: Python cannot import {missing.name}\npip install numpy pillow")
from edge_device import describe_device, limits_now, resident_mib
from edge_engines import build_engine
from edge_masks import MaskReading, read_indices
from protoseg_runner import SUFFIXES, Bundle, RunnerError, Segmenter, write_atomically

from protoseg_deploy.benchmarking.distribution import FEWEST_RUNS, LatencyStats, latency_stats
from protoseg_deploy.benchmarking.energy.measuring import EnergyFigures, idle_watts, measure_energy, watched
from protoseg_deploy.benchmarking.energy.rapl import open_rapl
from protoseg_deploy.benchmarking.energy.source import EnergySource
from protoseg_deploy.benchmarking.energy.tegrastats import open_tegrastats

LOWEST_AGREEMENT = {"fp32": 99.9, "fp16": 99.0, "bf16": 97.0, "int8": 95.0}
"""Percent of the pixels, for artefacts whose limits the manifest does not tell."""
TURN, WINDOW, SPREAD, WARMUP_S = 5, 5, 0.05, 10.0


@dataclass
class Artefact:
    """A graph or an engine, and what was found out about it."""

    name: str
    segmenter: Segmenter
    file_bytes: int
    load_ms: float
    first_call_ms: float = 0.0
    agreement_percent: float = 0.0
    miou_percent: float | None = None
    faults: list[str] = field(default_factory=list)
    warmup: int = 0
    settled: bool = False
    arrays_ms: list[float] = field(default_factory=list)
    file_ms: list[float] = field(default_factory=list)
    energy: EnergyFigures | None = None

    def warm_up(self, images: np.ndarray) -> None:
        """Until three windows of calls agree, or the time is up."""
        medians: list[float] = []
        end = time.perf_counter() + WARMUP_S
        while not self.settled and (time.perf_counter() < end or not medians):
            medians.append(statistics.median(_timed(lambda: self.segmenter.predict(images)) for _ in range(WINDOW)))
            self.warmup += WINDOW
            self.settled = len(medians) > 2 and max(medians[-3:]) <= min(medians[-3:]) * (1 + SPREAD)

    def take_turn(self, images: np.ndarray, read: Callable[[], np.ndarray]) -> None:
        """The first call of a turn does not count."""
        self.segmenter.predict(images)
        self.arrays_ms += [_timed(lambda: self.segmenter.predict(images)) for _ in range(TURN)]
        self.file_ms.append(_timed(lambda: self.segmenter.predict(read())))


def open_artefacts(arguments: argparse.Namespace) -> list[Artefact]:
    """The graphs and engines that were asked for; without a word the fp32 and int8 graphs that there are."""
    bundle = Bundle(arguments.bundle)
    engines = [(name, *_engine(bundle, name)) for name in arguments.engine]
    for precision in arguments.build:
        print(f"building {precision}, which takes minutes", file=sys.stderr)
        file, seconds = build_engine(bundle, precision, arguments.batch, _size(arguments, bundle), arguments.out.parent)
        print(f"{file}: built in {seconds:.0f} s", file=sys.stderr)
        engines.append((file.name, file, file.stat().st_size))
    graphs = list(dict.fromkeys(arguments.precision or ()))
    if not graphs:
        graphs = [] if engines else [name for name in ("fp32", "int8") if name in bundle.graphs]
    opened = []
    for precision in graphs:
        size = sum(bundle.files[name][1] for name in bundle.graphs.get(precision, ("", ()))[1])
        options = {"provider": arguments.provider, "threads": arguments.threads}
        opened.append(_open(f"{arguments.bundle.name}@{precision}", size, arguments.bundle, precision, **options))
    opened += [_open(f"{arguments.bundle.name}/{name}", size, file) for name, file, size in engines]
    return opened


def _engine(bundle: Bundle, name: str) -> tuple[Path, int]:
    if name not in bundle.engines:
        raise RunnerError(
            f"{bundle.folder} has no engine {name!r}; it has {', '.join(bundle.engines) or 'none'}", "", 2
        )
    file = bundle.engines[name][0]
    return bundle.folder / file, bundle.files[file][1]


def _open(name: str, file_bytes: int, *place: Any, **options: Any) -> Artefact:
    begin = time.perf_counter()
    segmenter = Segmenter(*place, **options, allow_unverified=True)  # it is compared here
    return Artefact(name, segmenter, file_bytes, load_ms=1000 * (time.perf_counter() - begin))


def verify(artefacts: Sequence[Artefact], images: Sequence[Path], arguments: argparse.Namespace) -> None:
    """Compare class maps with the reference, and with masks where there are any."""
    bundle = Bundle(arguments.bundle)
    home = None
    if arguments.reference is None:
        home = Segmenter(arguments.bundle, "fp32", "cpu", arguments.threads, allow_unverified=True)
    references = _beside(images, arguments.images, arguments.reference)
    masks = _beside(images, arguments.images, arguments.masks)
    reading = MaskReading(bundle) if masks else None
    equal, pixels = [0] * len(artefacts), 0
    counts = [np.zeros((len(bundle.classes),) * 2, np.int64) for _ in artefacts]
    for path in images:
        image = artefacts[0].segmenter.read(path)
        expected = home.segment(image) if home else read_indices(references[path])
        truth = reading.read(masks[path]) if reading else None
        pixels += expected.size
        for number, artefact in enumerate(artefacts):
            class_map = artefact.segmenter.segment(image)
            for mask, what in ((expected, "reference"), (truth, "mask")):
                if mask is not None and mask.shape != class_map.shape:
                    raise RunnerError(
                        f"{path}: its {what} has {mask.shape[1]}x{mask.shape[0]} pixels, not its own size"
                    )
            equal[number] += int((class_map == expected).sum())
            if reading is not None and truth is not None:
                counts[number] += reading.confusion(class_map, truth)
    if masks and not counts[0].any():
        raise RunnerError(f"{arguments.masks}: no pixel of any mask counts: all have the ignored value")
    for artefact, same, matrix in zip(artefacts, equal, counts, strict=True):
        artefact.agreement_percent = 100 * same / pixels
        lowest = _lowest_agreement(bundle, artefact)
        if artefact.agreement_percent < lowest:
            artefact.faults.append(
                f"{artefact.agreement_percent:.3f} % of the pixels agree, at least {lowest} % have to"
            )
        if masks:
            union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
            artefact.miou_percent = 100 * float(np.mean((matrix.diagonal() / np.maximum(union, 1))[union > 0]))


def _beside(images: Sequence[Path], root: Path, folder: Path | None) -> dict[Path, Path]:
    """The mask of each image below a folder: as `protoseg predict` names it, one for each."""
    if folder is None:
        return {}
    found: dict[Path, Path] = {}
    for path in images:
        relative = path.relative_to(root)
        names = (relative.with_suffix(".png"), relative.with_name(f"{relative.name}.png"), Path(f"{path.stem}.png"))
        there = next((folder / name for name in names if (folder / name).is_file()), None)
        if there is None:
            raise RunnerError(
                f"there is no {folder / names[0]}, which belongs to {path}", "Masks are named like images."
            )
        if there in found.values():
            raise RunnerError(f"{there} would belong to {path} and to another image of that name", "Give each its own.")
        found[path] = there
    return found


def _lowest_agreement(bundle: Bundle, artefact: Artefact) -> float:
    stages = (bundle.manifest.get("verification") or {"stages": []})["stages"]
    for stage in stages:
        if stage["artefact"] == artefact.segmenter.file and stage.get("limits"):
            return float(stage["limits"]["min_agreement_percent"])
    return LOWEST_AGREEMENT[artefact.segmenter.precision]


def measure(artefacts: Sequence[Artefact], read: Callable[[], np.ndarray], arguments: argparse.Namespace) -> list[str]:
    """Time all artefacts alternately; returns what speaks against all their figures."""
    images = read()
    for artefact in artefacts:
        artefact.warm_up(images)
    source, reason = _meter()
    if source is None:
        print(f"no energy is measured: {reason}", file=sys.stderr)
    doubts: list[str] = []
    try:
        idle = None if source is None else idle_watts(source)
        with watched(source, 0.2) as seen:
            doubts += _in_turns(artefacts, images, read, arguments)
        doubts += seen.doubts()
        for artefact in artefacts if source is not None and idle is not None else ():
            artefact.energy = _cost(artefact, images, source, idle)
    finally:
        if source is not None:
            source.close()
    return doubts


def _meter() -> tuple[EnergySource | None, str]:
    board = open_tegrastats()
    return (board, "") if board is not None else open_rapl()


def _cost(artefact: Artefact, images: np.ndarray, source: EnergySource, idle: float) -> EnergyFigures | None:
    return measure_energy(lambda: artefact.segmenter.predict(images), len(images), source, idle)


def _in_turns(
    artefacts: Sequence[Artefact], images: np.ndarray, read: Callable[[], np.ndarray], arguments: argparse.Namespace
) -> list[str]:
    order, limited = list(artefacts), set()
    gc.collect()
    gc.disable()
    end = time.perf_counter() + arguments.seconds * len(order)
    try:
        while len(artefacts[0].arrays_ms) < arguments.runs or time.perf_counter() < end:
            for artefact in order:
                artefact.take_turn(images, read)
            order.reverse()
            limited |= limits_now()
    finally:
        gc.enable()
    return [f"the board was limited by {', '.join(sorted(limited))}"] if limited else []


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - begin)


def _size(arguments: argparse.Namespace, bundle: Bundle) -> tuple[int, int]:
    return arguments.size or bundle.fixed_size or (512, 512)


def batch_reader(
    segmenter: Segmenter, paths: Sequence[Path], arguments: argparse.Namespace
) -> Callable[[], np.ndarray]:
    """What reads and decodes a batch of images from their files, and resizes them to the size of the measurement."""
    height, width = segmenter.fixed_size or arguments.size or segmenter.read(paths[0]).shape[:2]
    _check_memory(arguments.batch, (height, width))
    wanted = [paths[number % len(paths)] for number in range(arguments.batch)]

    def read() -> np.ndarray:
        images = [Image.fromarray(segmenter.read(path)).resize((width, height), Image.BILINEAR) for path in wanted]
        return np.stack([np.asarray(image) for image in images])

    return read


def row(
    artefact: Artefact, shape: tuple[int, ...], doubts: Sequence[str], device: dict, threads: int
) -> dict[str, Any]:
    """As `protoseg bench --json` writes it."""
    batch, height, width = shape[:3]

    def stats(times: Sequence[float]) -> LatencyStats:
        return latency_stats(times, batch=batch, warmup_runs=artefact.warmup, settled=artefact.settled, doubts=doubts)

    arrays, files = stats(artefact.arrays_ms), stats(artefact.file_ms)
    energy = artefact.energy
    return {
        "runtime": artefact.name, "kind": "edge", "digest": artefact.segmenter.sha256,
        "precision": artefact.segmenter.precision, "backend": artefact.segmenter.provider,
        "verified": not artefact.faults, "faults": artefact.faults, "threads": threads,
        "file_bytes": artefact.file_bytes, "batch": batch, "height": height, "width": width, "boundary": "arrays",
        **arrays.to_dict(), "boundaries": {"arrays": arrays.to_dict(), "file": files.to_dict()},
        "load_ms": artefact.load_ms, "first_call_ms": artefact.first_call_ms,
        "agreement_percent": artefact.agreement_percent, "miou_percent": artefact.miou_percent,
        "joules_per_image": energy.joules_per_image if energy else None,
        "joules_per_image_net": energy.joules_per_image_net if energy else None,
        "energy": energy.to_dict() if energy else None, "process_peak_memory_mib": resident_mib(), "machine": device,
    }  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parse(words)
    try:
        return _run(arguments)
    except RunnerError as error:
        print(f"Error: {error}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: {error.filename or arguments.out}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.images.is_dir():
        raise RunnerError(f"no such folder: {arguments.images}", exit_code=2)
    paths = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise RunnerError(f"{arguments.images} holds no images", exit_code=2)
    _check_target(arguments)
    device = describe_device()
    artefacts = open_artefacts(arguments)
    read = batch_reader(artefacts[0].segmenter, paths, arguments)
    images = read()
    for artefact in artefacts:
        artefact.first_call_ms = _timed(lambda artefact=artefact: artefact.segmenter.predict(images))
    verify(artefacts, paths, arguments)
    doubts = measure(artefacts, read, arguments)
    rows = [row(artefact, images.shape, doubts, device, arguments.threads) for artefact in artefacts]
    document = rows[0] if len(rows) == 1 else {"runtimes": rows}
    write_atomically(arguments.out, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())
    for one in rows:
        steady = "" if one["steady"] else f"; not steady: {'; '.join(one['doubts'])}"
        miou = f", mIoU {one['miou_percent']:.2f} %" if one["miou_percent"] is not None else ""
        agreement = f"{one['agreement_percent']:.3f} % agree"
        print(f"{one['runtime']}: p50 {one['latency_p50_ms']:.2f} ms, {agreement}{miou}{steady}")
    shown = shlex.quote(arguments.out.name)
    print(f"{arguments.out}: bring it home, and show it with `protoseg bench --read {shown}`")
    for one in rows:
        for fault in one["faults"]:
            print(f"Error: {one['runtime']}: {fault}", file=sys.stderr)
    if any(one["faults"] for one in rows):
        return 1
    return 3 if arguments.strict and not all(one["steady"] for one in rows) else 0


def _check_target(arguments: argparse.Namespace) -> None:
    """Refuse to write over what is read, or where nothing can be written; before minutes are spent."""
    out = arguments.out.resolve()
    for folder in (arguments.bundle, arguments.images, arguments.masks, arguments.reference):
        if folder is not None and folder.resolve() in (out, *out.parents):
            raise RunnerError(f"--out {arguments.out} lies in {folder}, which is read", "Write it elsewhere.", 2)
    if out.is_dir():
        raise RunnerError(f"--out {arguments.out} is a folder", "Name a file.", 2)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(arguments.out.parent, os.W_OK):
        raise RunnerError(f"nothing can be written to {arguments.out.parent}", "Choose another --out.", 2)


def _check_memory(batch: int, size: tuple[int, int]) -> None:
    """Refuse a batch that alone is larger than the memory of the device."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    needed = batch * size[0] * size[1] * 3
    if 0 < pages < 2 * needed:
        raise RunnerError(
            f"{batch} x {size[0]}x{size[1]} pixels take {needed >> 30} GiB; the memory has {pages >> 30} GiB",
            "Make --batch or --size smaller.",
            2,
        )


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, verify and measure a bundle on the device that will run it.")
    add = parser.add_argument
    add("bundle", type=Path, help="bundle folder of `protoseg export`")
    add("--images", type=Path, required=True, help="folder of images")
    add("--masks", type=Path, help="folder of their index masks, STEM.png: measures the mIoU")
    add("--reference", type=Path, help="class maps made at home, STEM.png (default: the fp32 graph on this CPU)")
    add("--out", type=Path, required=True, help="JSON file to write")
    add("--precision", nargs="+", choices=("fp32", "fp16", "bf16", "int8"), help="graphs (default: fp32 and int8)")
    add("--engine", nargs="+", default=[], metavar="NAME", help="engines of the bundle")
    add(
        "--build",
        nargs="+",
        default=[],
        choices=("fp32", "fp16", "bf16", "int8"),
        help="TensorRT engines to build here",
    )
    add("--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu", help="of ONNX Runtime")
    add("--threads", type=_threads, default=0, help="of the CPU (default: ONNX Runtime's choice)")
    add(
        "--size",
        type=_sides,
        metavar="N|HxW",
        help="of the timed images (default: the fixed size, or the first image's)",
    )
    add("--batch", type=_positive, default=1, help="images of a call")
    add("--runs", type=_positive, default=FEWEST_RUNS, help=f"least number of timed calls (default: {FEWEST_RUNS})")
    add("--seconds", type=_seconds, default=10.0, help="least time for each artefact (default: 10)")
    add("--strict", action="store_true", help="exit with 3 if a latency is not steady")
    return parser.parse_args(words)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _threads(text: str) -> int:
    most = 8 * (os.cpu_count() or 1)
    if _natural(text) > most:
        raise argparse.ArgumentTypeError(f"{text} threads are too many for this device; at most {most}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time from 0 to 86400 seconds")
    return seconds


def _positive(text: str) -> int:
    if _natural(text) < 1:
        raise argparse.ArgumentTypeError("starts at 1")
    return int(text)


def _sides(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512 or 512x1024")
    return int(sides[0]), int(sides[-1])


if __name__ == "__main__":
    sys.exit(main())
