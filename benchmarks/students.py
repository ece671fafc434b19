"""Which student to deploy: backbones x decoders with size, operations, latency and mIoU: docs/results/students.md.

    python benchmarks/students.py RESULTS WORK --images PHOTOS                       # latency: ten backbones
    python benchmarks/students.py RESULTS WORK --teacher RUN --weights FOLDER        # mIoU: students distilled from RUN
    python benchmarks/students.py RESULTS WORK --page docs/results/students.md       # the page and its picture

Latency is that of fp32 and int8 graphs of random weights: 512x512, one thread, ONNX Runtime on a CPU, all networks of a
backbone alternately, with the first one of all as a yardstick. mIoU is that of students which are distilled from one
teacher on its own data, for the backbones whose weights are in FOLDER (NAME_imagenet.safetensors), and of their int8
graphs.

RESULTS (JSON lines) and WORK hold what is done already; the same command goes on where it was interrupted. Run it with
`nice -n 19` while the machine does something else, but the latencies on a quiet one.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from protoseg_deploy.benchmarking.inputs import ImageBatch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.machine import describe_machine
from protoseg_deploy.evaluation.samples import folder_samples
from protoseg_deploy.exporting import Calibration, export_bundle
from protoseg_deploy.files import write_atomically
from protoseg_deploy.models import NetworkSpec, Segmenter, build_segmenter, count_parameters, save_network
from protoseg_deploy.recipe import ClassTable, ImageReading, Model
from protoseg_deploy.runtimes.opening import open_runtime

BACKBONES = (
    "mobilenetv2_100",
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite2",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "efficientvit_b0",
    "hgnetv2_b0",
    "repvit_m0_9",
    "resnet18",
)
DECODERS = {"lraspp": 32, "fpn_lite": 32, "fpn": 32, "deeplabv3plus": 16}
"""With the output stride each is measured at; backbones that cannot be dilated keep their own."""
CLASSES = ClassTable(tuple(f"class{n}" for n in range(11)), tuple((n, 2 * n, 255 - n) for n in range(11)))
SIDE, SECONDS = 512, 3.0
_MIXED = 0.2
_CALIBRATED = 4
"""Images; weights are random, and only their speed counts."""
PATH = click.Path(path_type=Path)


@dataclass
class Results:
    """One line of JSON for each thing that was found out."""

    path: Path

    def rows(self, kind: str) -> list[dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        return [row for row in map(json.loads, lines) if row["kind"] == kind]

    def has(self, kind: str, **values: object) -> bool:
        return any(all(row[key] == value for key, value in values.items()) for row in self.rows(kind))

    def add(self, kind: str, **values: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"kind": kind, **values}) + "\n")
        click.echo(f"{kind}: {values}")


def measure_backbone(results: Results, backbone: str, work: Path, images: Path) -> None:
    """Latency, size and operations of all decoders on one backbone."""
    todo = [decoder for decoder in DECODERS if not results.has("latency", backbone=backbone, decoder=decoder)]
    if not todo:
        return
    yardstick = _bundle(BACKBONES[0], "lraspp", work, images)
    bundles = {decoder: _bundle(backbone, decoder, work, images) for decoder in todo}
    runtimes = [open_runtime(yardstick, device="cpu", threads=1, precision="fp32")]
    for bundle in bundles.values():
        runtimes += [open_runtime(bundle, device="cpu", threads=1, precision=each) for each in ("fp32", "int8")]
    reports = measure_interleaved(runtimes, images=_photo(images), seconds=SECONDS)
    machine = describe_machine()
    for number, decoder in enumerate(todo):
        fp32, int8 = reports[1 + 2 * number : 3 + 2 * number]
        segmenter = build_segmenter(_spec(backbone, decoder)).eval()
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            segmenter(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8))
        results.add(
            "latency",
            backbone=backbone,
            decoder=decoder,
            parameters=count_parameters(segmenter),
            decoder_channels=segmenter.spec.decoder_channels,
            separable=segmenter.spec.separable and decoder in ("fpn", "deeplabv3plus"),
            stride=segmenter.backbone.strides[-1],
            macs=counter.get_total_flops() // 2,
            fp32_ms=fp32.stats.p50_ms,
            int8_ms=int8.stats.p50_ms,
            steady=fp32.steady and int8.steady,
            yardstick_ms=reports[0].stats.p50_ms,
            fp32_bytes=fp32.info.file_bytes,
            int8_bytes=int8.info.file_bytes,
            cpu=machine.cpu,
            date=machine.date,
        )


def _spec(backbone: str, decoder: str) -> NetworkSpec:
    return NetworkSpec(
        Model(backbone=backbone, weights="none", decoder=decoder, output_stride=DECODERS[decoder]), CLASSES
    )


def _bundle(backbone: str, decoder: str, work: Path, images: Path) -> Path:
    """A bundle with an fp32 and an int8 graph of random weights."""
    folder = work / "bundles" / f"{backbone}-{decoder}"
    if not folder.is_dir():
        network = work / f"{backbone}-{decoder}.safetensors"
        torch.manual_seed(0)
        segmenter = build_segmenter(_spec(backbone, decoder)).eval()
        samples = folder_samples(images)[:_CALIBRATED]
        _favour_a_class(segmenter, _photo(images))
        save_network(network, segmenter.state_dict(), NetworkSpec(segmenter.spec, CLASSES))
        calibration = Calibration([sample.image for sample in samples], max_drop=100.0)
        options = {"calibration": calibration, "samples": samples, "verify": False}
        export_bundle(network, folder, precisions=("fp32", "int8"), **options)
    return folder


def _photo(images: Path) -> NDArray[np.uint8]:
    """``[1,SIDE,SIDE,3]``."""
    return ImageBatch(images, 1, ImageReading(), (SIDE, SIDE)).read()


def _favour_a_class(segmenter: Segmenter, images: NDArray[np.uint8]) -> None:
    """Raise the bias of one class until classes meet in as many places as after training.

    Upsampling takes longest where they meet. In trained networks the argmax differs between four neighbouring logits in
    16 to 22 % of all places of CamVid's images; with random weights it does nearly everywhere.
    """
    with torch.no_grad():
        logits = segmenter.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2)).logits[0]
        low, high = 0.0, float(logits.max() - logits.min())
        for _ in range(30):
            bias = (low + high) / 2
            raised = logits.clone()
            raised[0] += bias
            winner = raised.argmax(0)
            corners = (winner[:-1, :-1], winner[:-1, 1:], winner[1:, :-1], winner[1:, 1:])
            mixed = torch.stack([corner != corners[0] for corner in corners]).any(0).float().mean()
            low, high = (bias, high) if mixed > _MIXED else (low, bias)
        assert segmenter.head.bias is not None
        segmenter.head.bias[0] += high


def distil_student(results: Results, backbone: str, decoder: str, work: Path, teacher: Path, weights: Path) -> None:
    """Train a student, export it, and evaluate both graphs on the validation images of the teacher's recipe."""
    if results.has("miou", backbone=backbone, decoder=decoder):
        return
    run, bundle = work / "runs" / f"{backbone}-{decoder}", work / "students" / f"{backbone}-{decoder}"
    model = [f"model.backbone={backbone}", f"model.decoder={decoder}", f"model.output_stride={DECODERS[decoder]}"]
    model += [f"model.weights={weights}", "model.decoder_channels=null", "model.separable=null", "train.workers=0"]
    if not (run / "summary.json").is_file():
        resume = ["--resume"] if (run / "recipe.yaml").is_file() else []
        _protoseg("distill", str(teacher), "--run", str(run), "--train", *resume, *model)
    if not bundle.is_dir():
        _protoseg("export", str(run), "--bundle", str(bundle), "--precision", "fp32,int8")
    found = {}
    for precision in ("fp32", "int8"):
        said = json.loads(
            _protoseg("evaluate", f"{bundle}@{precision}", "--recipe", str(run / "recipe.yaml"), "--json")
        )
        found[f"{precision}_miou_percent"] = said["miou_percent"]
    teacher_miou = json.loads((teacher / "summary.json").read_text())["best_miou_percent"]
    results.add("miou", backbone=backbone, decoder=decoder, teacher_miou_percent=teacher_miou, **found)


def _protoseg(*words: str) -> str:
    command = [sys.executable, "-m", "protoseg_deploy", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@click.command()
@click.argument("results_path", metavar="RESULTS", type=PATH)
@click.argument("work", type=PATH)
@click.option("--images", type=PATH, help="Photos to calibrate int8 on: measures latencies.")
@click.option("--teacher", type=PATH, help="Run to distil from: measures mIoU.")
@click.option("--weights", type=PATH, help="Folder of NAME_imagenet.safetensors.")
@click.option("--backbone", "backbones", multiple=True, type=click.Choice(BACKBONES), help="[default: all]")
@click.option("--page", type=PATH, help="Write the page here, and its picture beside it.")
def main(
    results_path: Path,
    work: Path,
    images: Path | None,
    teacher: Path | None,
    weights: Path | None,
    backbones: tuple[str, ...],
    page: Path | None,
) -> None:
    """Measure what RESULTS lacks; files go to WORK."""
    results = Results(results_path)
    chosen = backbones or BACKBONES
    work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for backbone in chosen if images is not None else ():
        measure_backbone(results, backbone, work, images)
    for backbone in chosen if teacher is not None and weights is not None else ():
        file = weights / f"{backbone}_imagenet.safetensors"
        for decoder in DECODERS if file.is_file() else ():
            distil_student(results, backbone, decoder, work, teacher, file)
    if page is not None:
        write_page(results, page)


def write_page(results: Results, page: Path) -> None:
    """The table, and mIoU over latency as a picture."""
    rows = results.rows("latency")
    mious = {(row["backbone"], row["decoder"]): row for row in results.rows("miou")}
    yardstick = statistics.median(row["yardstick_ms"] for row in rows)
    cells = [_cells(row, mious.get((row["backbone"], row["decoder"])), yardstick) for row in rows]
    columns = ("backbone", "decoder", "stride", "parameters (M)", "GMAC", "fp32 (ms)", "int8 (ms)")
    columns += ("fp32 (MB)", "int8 (MB)", "mIoU fp32 %", "mIoU int8 %")
    drawn = page.with_suffix(".svg")
    _draw(rows, mious, yardstick, drawn)
    text = (Path(__file__).parent / "students.head.md").read_text(encoding="utf-8")
    machines = ", ".join(dict.fromkeys(f"{row['cpu']} ({row['date']})" for row in rows))
    teacher = next(iter(mious.values()), {}).get("teacher_miou_percent")
    table = [f"| {' | '.join(line)} |" for line in (columns, *cells)]
    table.insert(1, f"|{'---|' * len(columns)}")
    text += "\n".join(
        [
            "",
            *table,
            "",
            f"Machine: {machines}. `†`: a latency that was not steady.",
            f"The teacher has {teacher:.2f} % mIoU." if teacher else "",
            "",
            f"![mIoU over latency]({drawn.name})",
            "",
        ]
    )
    write_atomically(page, text.encode())


def _cells(row: dict[str, Any], miou: dict[str, Any] | None, yardstick: float) -> tuple[str, ...]:
    scale = yardstick / row["yardstick_ms"]  # what the machine was slower or faster at that moment
    mark = "" if row["steady"] else " †"
    decoder = f"{row['decoder']} {row['decoder_channels']}{', separable' if row['separable'] else ''}"
    return (
        row["backbone"],
        decoder,
        str(row["stride"]),
        f"{row['parameters'] / 1e6:.2f}",
        f"{row['macs'] / 1e9:.2f}",
        f"{row['fp32_ms'] * scale:.1f}{mark}",
        f"{row['int8_ms'] * scale:.1f}{mark}",
        f"{row['fp32_bytes'] / 1e6:.1f}",
        f"{row['int8_bytes'] / 1e6:.1f}",
        *(f"{miou[f'{precision}_miou_percent']:.2f}" if miou else "–" for precision in ("fp32", "int8")),
    )


def _draw(rows: Sequence[dict[str, Any]], mious: dict[Any, dict[str, Any]], yardstick: float, path: Path) -> None:
    figure = Figure(figsize=(8, 5), dpi=130, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    points = list(_points(rows, mious, yardstick))
    colors = dict(zip(DECODERS, ("#0072B2", "#D55E00", "#009E73", "#CC79A7"), strict=True))
    for (latency, value), label, decoder, precision in points:
        filled = colors[decoder] if precision == "fp32" else "white"
        axes.plot([latency], [value], "o", color=colors[decoder], markerfacecolor=filled)
        axes.annotate(label, (latency, value), xytext=(5, 4), textcoords="offset points", fontsize=7)
    front: list[tuple[float, float]] = []
    for point in sorted(place for place, *_ in points):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    axes.plot(*zip(*front, strict=True), color="#555555", linewidth=0.9) if front else None
    axes.set(xlabel="p50 latency at 512x512, one thread (ms); hollow: int8", ylabel="mIoU (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    write_atomically(path, lambda file: figure.savefig(file, format=path.suffix[1:]))


def _points(
    rows: Sequence[dict[str, Any]], mious: dict[Any, dict[str, Any]], yardstick: float
) -> Iterable[tuple[tuple[float, float], str, str, str]]:
    for row in rows:
        miou = mious.get((row["backbone"], row["decoder"]))
        for precision in ("fp32", "int8") if miou else ():
            latency = row[f"{precision}_ms"] * yardstick / row["yardstick_ms"]
            place = (latency, miou[f"{precision}_miou_percent"])
            yield place, f"{row['backbone']} {row['decoder']}", row["decoder"], precision


if __name__ == "__main__":
    main()
