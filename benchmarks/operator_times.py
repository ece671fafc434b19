"""Where the time of a graph goes: processor time of ONNX Runtime's kernels by operator.

    python benchmarks/operator_times.py BUNDLE/model.onnx... --images PHOTOS [--size 512]

One thread, the graph as `protoseg` gives it to ONNX Runtime's CPU provider; the median over calls of what each kernel
took, so that other processes disturb little.
"""

import json
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

import click
import onnxruntime as ort

from protoseg_deploy.benchmarking.inputs import ImageBatch
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu

PATH = click.Path(path_type=Path, exists=True)
CONVOLUTIONS = {"Conv", "FusedConv", "QLinearConv", "ConvTranspose"}


@click.command()
@click.argument("graphs", nargs=-1, required=True, type=PATH)
@click.option("--images", type=PATH, required=True)
@click.option("--size", type=click.IntRange(min=8), default=512, show_default=True)
@click.option("--calls", type=click.IntRange(min=3), default=40, show_default=True)
def main(graphs: tuple[Path, ...], images: Path, size: int, calls: int) -> None:
    """Print milliseconds and shares by operator."""
    pixels = ImageBatch(images, 1, ImageReading(), (size, size)).read()
    for graph in graphs:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        with tempfile.TemporaryDirectory() as folder:
            options.profile_file_prefix = f"{folder}/profile"
            session = ort.InferenceSession(loadable_on_cpu(graph), options, providers=["CPUExecutionProvider"])
            for _ in range(calls):
                session.run(["class_map"], {"images": pixels})
            events = json.loads(Path(session.end_profiling()).read_text())
        times: dict[tuple[str, str], list[float]] = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                times[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
        operators: dict[str, float] = defaultdict(float)
        for (operator, _), each in times.items():
            operators[operator] += statistics.median(each)
        operators.pop("If", None)  # counts what its branch computes once more
        total = sum(operators.values())
        share = sum(operators[operator] for operator in CONVOLUTIONS & operators.keys()) / total
        click.echo(f"{graph}: {total:.2f} ms, convolutions {share:.1%}")
        for operator, taken in sorted(operators.items(), key=lambda item: -item[1])[:10]:
            click.echo(f"  {operator:20} {taken:7.2f} ms {taken / total:6.1%}")


if __name__ == "__main__":
    main()
