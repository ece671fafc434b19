"""The fp32 graph of a bundle in the other precisions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from protoseg_deploy.bundles.manifest import GRAPH_FILE, GraphInfo, graph_file
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.choices import Precision
from protoseg_deploy.data import Sample, read_image
from protoseg_deploy.errors import UsageError
from protoseg_deploy.exporting.int8.calibration import DEFAULT_METHOD, CalibrationMethod
from protoseg_deploy.exporting.int8.quantization import RECOMMENDED_IMAGES, quantize_graph
from protoseg_deploy.exporting.low_precision.casting import cast_graph
from protoseg_deploy.exporting.mask_reader import MaskReader
from protoseg_deploy.exporting.tracing.onnx_export import save_graph
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.tiling import fit_image


@dataclass(frozen=True)
class Calibration:
    """How int8 finds its ranges."""

    images: Sequence[Path]
    """Unlabelled images of the kind the network will see."""
    count: int = RECOMMENDED_IMAGES
    """At most this many of them, evenly spaced."""
    method: CalibrationMethod = DEFAULT_METHOD
    max_drop: float = 1.0
    """Allowed mIoU loss of int8, in points; parts that cost more stay in higher precision."""
    progress: Callable[[int, int], object] | None = None


def make_graph(
    folder: Path,
    precision: Precision,
    metadata: GraphMetadata,
    calibration: Calibration | None,
    samples: Sequence[Sample],
    truth: MaskReader,
) -> GraphInfo:
    """Write the graph of a precision beside the fp32 graph of an unfinished bundle.

    Args:
        folder: holds ``model.onnx``.
        precision: any but fp32.
        metadata: of the fp32 graph.
        calibration: needed for int8.
        samples: images that int8's accuracy is measured on.
        truth: how their masks are read.

    Raises:
        UsageError: int8 without images to calibrate on or to measure its accuracy on.
        ProtosegError: int8 cannot be had within the allowed loss.
    """
    path = folder / graph_file(precision)
    if precision == "int8":
        conversion = _quantize(folder / GRAPH_FILE, path, calibration, samples, truth)
        files: tuple[str, ...] = (path.name,)
    else:
        assert precision != "fp32"
        model, conversion = cast_graph(onnx.load(folder / GRAPH_FILE), precision)
        onnx.helper.set_model_props(model, metadata.model_copy(update={"precision": precision}).to_properties())
        files = save_graph(model, path)
    model = onnx.load(path, load_external_data=False)
    return GraphInfo(file=path.name, files=files, opset=model.opset_import[0].version, conversion=conversion)


def _quantize(
    fp32: Path,
    path: Path,
    calibration: Calibration | None,
    samples: Sequence[Sample],
    truth: MaskReader,
) -> dict[str, Any]:
    if calibration is None or not calibration.images:
        raise UsageError(
            "int8 needs images to calibrate on", "Give a folder of typical images with --calibration-images DIR."
        )
    if not samples:
        raise UsageError(
            "int8 needs images to measure its accuracy on",
            "Give them with --images DIR, and --masks DIR if there are any.",
        )
    report = quantize_graph(
        fp32,
        path,
        calibration.images,
        method=calibration.method,
        count=calibration.count,
        evaluate=Accuracy(fp32, samples, truth),
        max_drop=calibration.max_drop,
        progress=calibration.progress,
    )
    return report.to_conversion()


class Accuracy:
    """mIoU of graphs made from one fp32 graph, 0..100: against masks where all images have one, else against the class
    maps of the fp32 graph itself.

    Args:
        fp32: the graph they are made from.
        samples: images.
        truth: how their masks are read.
    """

    def __init__(self, fp32: Path, samples: Sequence[Sample], truth: MaskReader) -> None:
        self._truth = truth
        runtime = OnnxRuntime(fp32, device="cpu")
        size = runtime.info.fixed_size
        self._pairs: list[tuple[UInt8Array, UInt8Array]] = []
        with_masks = all(sample.mask is not None for sample in samples)
        for sample in samples:
            image = read_image(sample.image, truth.images)
            mask = truth.read(sample, image) if with_masks else None
            if size is not None:
                image, mask = fit_image(image, size), None if mask is None else fit_image(mask, size)
            self._pairs.append((image, runtime.predict(image[None])[0] if mask is None else mask))

    def __call__(self, graph: Path) -> float:
        """mIoU in percent of a graph.

        Raises:
            DataError: the masks show no class.
        """
        runtime = OnnxRuntime(graph, device="cpu")
        matrix = self._truth.matrix()
        for image, expected in self._pairs:
            matrix.update(runtime.predict(image[None])[0], expected)
        return self._truth.miou_percent(matrix)
