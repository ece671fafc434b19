"""Ranges of the values inside a graph, measured on images: what int8 steps are spread over.

The measuring is ONNX Runtime's. Its calibrators would keep every value of every image in memory until the last one; fed
image by image they keep ranges and histograms only. They also calibrate whatever operator types they are told, and run
the graph as it is written; here they see the values that will be quantised, and run it optimised.
"""

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto

from protoseg_deploy.errors import UsageError
from protoseg_deploy.runtimes.base import UInt8Array

CalibrationMethod = Literal["entropy", "percentile", "minmax"]
METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)

DEFAULT_METHOD: CalibrationMethod = "percentile"
Ranges = dict[str, tuple[float, float]]
"""Smallest and largest number to represent, by value."""

PERCENTILE = 99.999
"""Share of the values of a tensor inside its range, in percent, half of the rest cut on either side."""
_BINS = 2048
# The entropy search tries each range of whole bins above 128 in Python loops: its time grows with the square.
_ENTROPY_BINS = 512
_LEVELS = 256


def value_ranges(
    model: ModelProto,
    values: frozenset[str],
    images: Iterable[UInt8Array],
    method: CalibrationMethod,
    progress: Callable[[int], object] | None = None,
) -> Ranges:
    """Smallest and largest number to represent, by value.

    Args:
        model: a float32 graph with the input ``images``.
        values: names of float32 values in it.
        images: ``[H,W,3]`` uint8 RGB each, one or more.
        method: ``minmax``: all that occurs; ``percentile``: all but the outermost `PERCENTILE` rest; ``entropy``: the
            range that loses least information (Kullback-Leibler divergence of the histograms before and after).
        progress: called with the number of images done.

    Raises:
        UsageError: there is no such method.
    """
    with tempfile.TemporaryDirectory(prefix="protoseg-int8-") as folder:
        calibrator = _calibrator(model, values, method, Path(folder))
        with contextlib.redirect_stdout(io.StringIO()):
            for number, image in enumerate(images):
                calibrator.collect_data(_OneImage(image))
                if progress is not None:
                    progress(number + 1)
            found = calibrator.compute_data()
    ranges = {}
    for name in found:
        low, high = found[name].range_value
        ranges[name] = (float(np.min(low)), float(np.max(high)))
    return ranges


class _OneImage:
    """One image as the data set of a calibrator."""

    def __init__(self, image: UInt8Array) -> None:
        self._feeds = [{"images": np.ascontiguousarray(image[None])}]

    def get_next(self) -> dict[str, UInt8Array] | None:
        return self._feeds.pop() if self._feeds else None


def _calibrator(model: ModelProto, values: frozenset[str], method: CalibrationMethod, folder: Path) -> Any:
    from onnxruntime.quantization.calibrate import EntropyCalibrater, MinMaxCalibrater, PercentileCalibrater

    classes: dict[CalibrationMethod, tuple[Any, dict[str, Any]]] = {
        "minmax": (MinMaxCalibrater, {}),
        "percentile": (PercentileCalibrater, {"percentile": PERCENTILE, "num_bins": _BINS}),
        "entropy": (EntropyCalibrater, {"num_bins": _ENTROPY_BINS, "num_quantized_bins": _LEVELS}),
    }
    if method not in classes:
        raise UsageError(f"there is no calibration method {method!r}", f"Choose one of {', '.join(METHODS)}.")
    base, options = classes[method]

    class Selective(base):  # type: ignore[misc, valid-type]
        """Calibrates the values asked for and no others."""

        def select_tensors_to_calibrate(self, model: ModelProto) -> tuple[set[str], dict[str, Any]]:
            candidates, infos = super().select_tensors_to_calibrate(model)
            return candidates & values, infos

    plain, augmented = folder / "graph.onnx", folder / "augmented.onnx"
    onnx.save(model, plain)
    calibrator = Selective(plain, augmented_model_path=str(augmented), **options)
    calibrator.augment_graph()
    session = onnxruntime.SessionOptions()
    session.log_severity_level = 3
    calibrator.infer_session = onnxruntime.InferenceSession(augmented, session, providers=["CPUExecutionProvider"])
    return calibrator
