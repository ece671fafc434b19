"""A bundle against the pipeline people write without one: same weights, same images, measured alternately.

The *plain pipeline* is NumPy normalisation (float32, /255, mean, deviation, transpose) -> ONNX, float images in
and float logits at full size out -> NumPy argmax. It does all the work of a bundle's graph, but moves twelve bytes per
pixel into the session and four bytes per pixel and class out of it, and passes over both on one core. Its network
resizes the normalised images itself where the recipe has an `input_scale`; a program that did this outside would be
slower.

Three questions are answered:

1. Are the class maps the same? Counted on the images; logits that differ by rounding alone can flip a pixel.
2. How long does one call take, from a uint8 array to a uint8 array?
3. Where does the time inside each graph go? ONNX Runtime times every kernel. *Convolution* is every kernel with `Conv`
   in its name, whatever was fused into it (Conv, FusedConv, NhwcFusedConv, QLinearConv, ...). All else is outside:
   layout changes (ReorderInput, ReorderOutput, Transpose), Resize, ArgMax, Cast, QuantizeLinear, DequantizeLinear,
   Concat, shape arithmetic. Of each node the median over the faster half of the runs counts, because another program
   that takes a core away for a while shows in single kernels.

    python benchmarks/plain_pipeline.py bundles/mine --images CAMVID/val/images --size 512x512 --threads 2
"""

import json
import statistics
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.benchmarking.inputs import ImageBatch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.latency_report import LatencyReport
from protoseg_deploy.bundles import Bundle
from protoseg_deploy.cli.arguments import PATH, height_and_width, json_option, print_json, print_table
from protoseg_deploy.models import Segmenter, load_network
from protoseg_deploy.models.deployed import scale_images
from protoseg_deploy.models.segmenter import resize_logits
from protoseg_deploy.runtimes import Runtime, RuntimeInfo, UInt8Array, open_runtime
from protoseg_deploy.runtimes.base import TimedPrediction
from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu
from protoseg_deploy.runtimes.stopwatch import Mark, no_mark, timed_on_host

_OPSET = 18
_PROFILE_TURNS, _PROFILE_TURN = 12, 5


class PlainNetwork(nn.Module):
    """Normalised images ``[B,3,H,W]`` float32 to logits ``[B,C,H,W]`` float32, as a network is commonly exported."""

    def __init__(self, segmenter: Segmenter, input_scale: float) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.input_scale = input_scale

    def forward(self, normalised: Tensor) -> Tensor:
        network = self.segmenter
        size = (normalised.shape[-2], normalised.shape[-1])
        scaled = scale_images(normalised, self.input_scale)
        height, width = scaled.shape[-2:]
        multiple = network.backbone.size_multiple
        if multiple > 1:
            scaled = F.pad(scaled, (0, -width % multiple, 0, -height % multiple))
        _, features = network.decoder(network.backbone(scaled))
        logits = network.head(features)
        if network.binary:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        logits = (
            resize_logits(logits, (scaled.shape[-2], scaled.shape[-1]), (height, width)) if multiple > 1 else logits
        )
        return resize_logits(logits, size, size)


class PlainPipeline:
    """The plain pipeline as a `Runtime`, so that it is measured like any other."""

    def __init__(self, graph: Path, segmenter: Segmenter, info: RuntimeInfo) -> None:
        self.info = info
        self._session = _session(graph, info.threads)
        self._mean = (segmenter.mean / 255).numpy().reshape(3)
        self._deviation = (segmenter.std / 255).numpy().reshape(3)

    def predict(self, images: UInt8Array) -> UInt8Array:
        return self._predict(images, no_mark)

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        return timed_on_host(lambda mark: self._predict(images, mark))

    def _predict(self, images: UInt8Array, mark: Mark) -> UInt8Array:
        normalised = self.normalise(images)
        mark()
        mark()
        logits = self._session.run(None, {"input": normalised})[0]
        mark()
        mark()
        class_map: UInt8Array = logits.argmax(axis=1).astype(np.uint8)
        return class_map

    def normalise(self, images: UInt8Array) -> NDArray[np.float32]:
        normalised = (images.astype(np.float32) / 255.0 - self._mean) / self._deviation
        return np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))


def export_plain(segmenter: Segmenter, input_scale: float, graph: Path) -> None:
    """Write the plain ONNX, for images of any size."""
    axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.onnx.export(
        PlainNetwork(segmenter, input_scale).eval(),
        (torch.zeros(2, 3, 141, 203),),
        dynamo=True,
        dynamic_shapes=(axes,),
        opset_version=_OPSET,
        input_names=["input"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.save(graph)


@dataclass(frozen=True)
class Profile:
    """Where the time of one graph goes, in microseconds per run."""

    kernels: dict[str, float]
    """By operator, largest first."""
    nodes: dict[str, int]

    @property
    def total_us(self) -> float:
        return sum(self.kernels.values())

    @property
    def outside_us(self) -> float:
        return sum(time for name, time in self.kernels.items() if "Conv" not in name)

    @property
    def outside_percent(self) -> float:
        return 100 * self.outside_us / self.total_us

    def to_dict(self) -> dict[str, Any]:
        return {
            "kernels_us": {name: round(time, 1) for name, time in self.kernels.items()},
            "nodes": self.nodes,
            "total_us": round(self.total_us, 1),
            "outside_convolutions_us": round(self.outside_us, 1),
            "outside_convolutions_percent": round(self.outside_percent, 2),
        }


def profile_graphs(graphs: dict[str, tuple[Path, dict[str, NDArray[Any]]]], threads: int) -> dict[str, Profile]:
    """Kernel times of several graphs, run in turns.

    Args:
        graphs: file and inputs by name. Only the first output is computed.
        threads: of the CPU provider.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = {name: _session(graph, threads, str(Path(folder) / name)) for name, (graph, _) in graphs.items()}
        for _ in range(_PROFILE_TURNS):
            for name, session in sessions.items():
                for _ in range(_PROFILE_TURN):
                    session.run([session.get_outputs()[0].name], graphs[name][1])
        return {name: _read_profile(Path(session.end_profiling())) for name, session in sessions.items()}


def _read_profile(file: Path) -> Profile:
    """Median of each node over the faster half of the runs, the first turn left out."""
    runs: list[dict[str, int]] = [{}]
    operators: dict[str, str] = {}
    for event in json.loads(file.read_text()):
        if event.get("name") == "model_run":
            runs.append({})
        elif event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            if event["args"]["op_name"] == "If":  # its branch is counted node by node
                continue
            runs[-1][event["name"]] = event["dur"]
            operators[event["name"]] = event["args"]["op_name"]
    complete = [run for run in runs if len(run) == len(operators)][_PROFILE_TURN:]
    fastest = sorted(complete, key=lambda run: sum(run.values()))[: len(complete) // 2]
    kernels: dict[str, float] = defaultdict(float)
    for node, operator in operators.items():
        kernels[operator] += statistics.median(run[node] for run in fastest)
    ordered = dict(sorted(kernels.items(), key=lambda item: -item[1]))
    return Profile(ordered, dict(Counter(operators.values())))


def _session(graph: Path, threads: int, profile: str | None = None) -> Any:
    """A session with the settings of the bundle's own runtime, and the graph as it is given to it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    return ort.InferenceSession(loadable_on_cpu(graph, threads), options, providers=["CPUExecutionProvider"])


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--images", "folder", type=PATH, required=True, help="Folder of images, resized to --size.")
@click.option("--size", type=height_and_width, default="512x512", show_default=True, metavar="HxW")
@click.option("--count", type=click.IntRange(min=1), default=8, show_default=True, help="Images to compare on.")
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--seconds", type=float, default=6.0, show_default=True, help="For each pipeline and boundary.")
@click.option("--out", type=PATH, help="Keep the plain ONNX here.")
@json_option
def main(
    bundle: Path,
    folder: Path,
    size: tuple[int, int],
    count: int,
    threads: int,
    seconds: float,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the plain pipeline made from the same weights, on this CPU."""
    manifest = Bundle.open(bundle).manifest
    segmenter, spec = load_network(Bundle.open(bundle).reference())
    images = ImageBatch(folder, count, spec.reading, size).read()
    precisions = [precision for precision in ("fp32", "int8") if precision in manifest.graphs]
    with tempfile.TemporaryDirectory() as scratch:
        graph = out or Path(scratch) / "plain.onnx"
        export_plain(segmenter, spec.input_scale, graph)
        ours: dict[str, Runtime] = {
            p: open_runtime(bundle, device="cpu", threads=threads, precision=p) for p in precisions
        }
        info = replace(
            ours["fp32"].info, path=graph, backend="NumPy, ONNX Runtime, NumPy", file_bytes=graph.stat().st_size
        )
        plain = PlainPipeline(graph, segmenter, info)
        pipelines: dict[str, Runtime] = {"plain": plain, **ours}
        differing = _differing(pipelines, images)
        reports = dict(
            zip(
                pipelines,
                measure_interleaved(list(pipelines.values()), seconds=seconds, images=images[:1]),
                strict=True,
            )
        )
        inputs: dict[str, tuple[Path, dict[str, NDArray[Any]]]] = {
            "plain": (graph, {"input": plain.normalise(images[:1])}),
            **{p: (bundle / manifest.graphs[p].file, {"images": images[:1]}) for p in precisions},
        }
        profiles = profile_graphs(inputs, threads)
    if as_json:
        print_json(_document(differing, images, reports, profiles))
    else:
        _print(differing, images, reports, profiles)


def _differing(pipelines: dict[str, Runtime], images: UInt8Array) -> dict[str, int]:
    """Pixels in which each class map differs from the plain pipeline's."""
    maps = {
        name: np.stack([runtime.predict(image[None])[0] for image in images]) for name, runtime in pipelines.items()
    }
    return {name: int((found != maps["plain"]).sum()) for name, found in maps.items()}


def _document(
    differing: dict[str, int], images: UInt8Array, reports: dict[str, LatencyReport], profiles: dict[str, Profile]
) -> dict[str, Any]:
    plain = reports["plain"].stats.p50_ms
    return {
        name: {
            "differing_pixels": differing[name],
            "compared_pixels": int(np.prod(images.shape[:3])),
            "speed_against_plain": round(plain / report.stats.p50_ms, 3),
            "latency": report.to_dict(),
            "profile": profiles[name].to_dict(),
        }
        for name, report in reports.items()
    }


def _print(
    differing: dict[str, int], images: UInt8Array, reports: dict[str, LatencyReport], profiles: dict[str, Profile]
) -> None:
    first = reports["plain"]
    title = f"{first.height}x{first.width}, batch {first.batch}, {first.info.threads} threads, {first.machine.cpu}"
    rows: Sequence[Sequence[str]] = [
        (
            name,
            f"{report.stats.p50_ms:.2f}",
            f"{report.boundaries['engine'].p50_ms:.2f}",
            f"{first.stats.p50_ms / report.stats.p50_ms:.2f}x",
            f"{profiles[name].outside_percent:.1f} %",
            f"{differing[name]:,}",
            f"{report.info.file_bytes / 1e6:.1f}",
        )
        for name, report in reports.items()
    ]
    columns = ("", "p50 ms", "graph only", "speed", "outside conv", "differ", "MB")
    print_table(columns, rows, f"{title}; class maps compared on {np.prod(images.shape[:3]):,} pixels")
    for name, profile in profiles.items():
        print_table(
            ("kernel", "nodes", "us", "share"),
            [
                (kernel, profile.nodes[kernel], f"{time:.0f}", f"{100 * time / profile.total_us:.1f} %")
                for kernel, time in profile.kernels.items()
                if time > 0.002 * profile.total_us
            ],
            f"{name}: {profile.total_us / 1000:.2f} ms in kernels",
        )


if __name__ == "__main__":
    main()
