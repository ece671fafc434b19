"""Bundles beside the networks of other packages: same images, same threads, arrays in to class maps out.

    python benchmarks/peers/compare.py PEERS BUNDLE[@PRECISION][@BACKEND]... --images PHOTOS --threads 1

PEERS is the folder of `export_peers.py`. A peer is computed as its package proposes: NumPy scales and transposes the
images, ONNX Runtime computes the graph, NumPy takes the argmax where the graph gives logits. All are measured
alternately, see `protoseg bench`.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from protoseg_deploy.benchmarking.inputs import ImageBatch
from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.benchmarking.latency_report import LatencyReport
from protoseg_deploy.cli.arguments import PATH, json_option, print_json, print_table, runtime_argument
from protoseg_deploy.recipe import ClassTable
from protoseg_deploy.runtimes.base import Runtime, RuntimeInfo, TimedPrediction, UInt8Array
from protoseg_deploy.runtimes.stopwatch import Mark, no_mark, timed_on_host


class Peer:
    """A graph of another package as a `Runtime`."""

    def __init__(self, graph: Path, threads: int) -> None:
        described = json.loads(graph.with_suffix(".json").read_text())
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._mean, self._std = (np.array(described[key], np.float32) for key in ("mean", "std"))
        files = [file for file in (graph, graph.with_name(f"{graph.name}.data")) if file.is_file()]
        self.info = RuntimeInfo(
            kind="onnx",
            path=graph.stem,
            classes=ClassTable(("a", "b"), ((0, 0, 0), (255, 0, 0))),
            ignore_index=255,
            precision="fp32",
            device="cpu",
            backend=f"NumPy, ONNX Runtime {ort.__version__}, NumPy",
            threads=threads,
            parameters=described["parameters"],
            file_bytes=sum(file.stat().st_size for file in files),
            fixed_size=(described["size"], described["size"]),
        )

    def predict(self, images: UInt8Array) -> UInt8Array:
        return self._predict(images, no_mark)

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        return timed_on_host(lambda mark: self._predict(images, mark))

    def _predict(self, images: UInt8Array, mark: Mark) -> UInt8Array:
        scaled = (images.astype(np.float32) / 255.0 - self._mean) / self._std
        planes = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
        mark()
        mark()
        found: NDArray[Any] = self._session.run(None, {"images": planes})[0]
        mark()
        mark()
        return found.argmax(axis=1).astype(np.uint8) if found.ndim == 4 else found


@click.command()
@click.argument("peers", type=PATH)
@click.argument("bundles", nargs=-1, required=True)
@click.option("--images", type=PATH, required=True, help="Folder of images, resized to the size of the peers.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Least time for each.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the table as Markdown.")
@json_option
def main(
    peers: Path, bundles: Sequence[str], images: Path, threads: int, seconds: float, as_markdown: bool, as_json: bool
) -> None:
    """Measure the graphs in PEERS and BUNDLES alternately."""
    others = [Peer(graph, threads) for graph in sorted(peers.glob("*.onnx"))]
    arguments = [runtime_argument(text, None, None) for text in bundles]
    ours = [argument.open(device="cpu", which="best", threads=threads) for argument in arguments]
    runtimes: list[Runtime] = [*ours, *others]
    source = ImageBatch(images, 1, ours[0].info.reading, others[0].info.fixed_size)
    reports = measure_interleaved(runtimes, images=source.read(), seconds=seconds)
    names = [*bundles, *(str(peer.info.path) for peer in others)]
    if as_json:
        print_json([{**report.to_dict(), "runtime": name} for name, report in zip(names, reports, strict=True)])
        return
    columns = ("network", "arrays p50 (ms)", "95 %", "engine p50 (ms)", "/ first", "parameters (M)", "MB")
    cells = [_cells(name, report, reports[0]) for name, report in zip(names, reports, strict=True)]
    machine = reports[0].machine
    conditions = f"{machine.cpu}, {threads} threads, {reports[0].height}x{reports[0].width}, {machine.date}"
    if as_markdown:
        lines = [columns, ["---"] * len(columns), *cells]
        click.echo("\n".join([*(f"| {' | '.join(line)} |" for line in lines), "", f"{conditions}."]))
    else:
        print_table(columns, cells, conditions)


def _cells(name: str, report: LatencyReport, first: LatencyReport) -> tuple[str, ...]:
    stats = report.stats
    return (
        name.rpartition("/")[2] + ("" if report.steady else " (not steady)"),
        f"{stats.p50_ms:.1f}",
        f"{stats.p50_low_ms:.1f}–{stats.p50_high_ms:.1f}",
        f"{report.boundaries['engine'].p50_ms:.1f}",
        f"{report.stats.p50_ms / first.stats.p50_ms:.2f}x",
        f"{report.info.parameters / 1e6:.2f}",
        f"{report.info.file_bytes / 1e6:.1f}",
    )


if __name__ == "__main__":
    main()
