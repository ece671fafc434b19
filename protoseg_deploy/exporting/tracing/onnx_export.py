"""A network to one ONNX graph: uint8 images in, uint8 class maps out, everything between inside."""

import contextlib
import copy
import io
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from timm.utils.model import reparameterize_model
from torch import Tensor

from protoseg_deploy.bundles.manifest import Axis, OutputSpec
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.errors import ProtosegError, UsageError, WriteError
from protoseg_deploy.exporting.tracing.folding import fold_deviation
from protoseg_deploy.exporting.tracing.padding import constant_same_padding
from protoseg_deploy.exporting.tracing.resampling import translations
from protoseg_deploy.exporting.tracing.rewriting import quick_mismatches
from protoseg_deploy.exporting.tracing.window_attention import counted_windows, gather_windows
from protoseg_deploy.files import scratch_path
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, Segmenter, class_map_dtype
from protoseg_deploy.time_limit import time_limit

DEFAULT_OPSET = 18
"""TensorRT from 8.6, ONNX Runtime from 1.14 and OpenVINO read it. Later ones bring little: GELU is one node from 20."""
OPSETS = (18, 19, 20, 21, 22, 23)

EXTERNAL_ABOVE = 2_000_000_000
"""Bytes of weights that go into one file; protobuf ends at 2 GiB, and the nodes need room too."""

# Odd, unequal and above 1, so that no side can be mistaken for a constant or for another side.
_TRACED_BATCH, _TRACED_SIZE = 2, (141, 203)
_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "onnxscript", "onnx_ir", "torch._dynamo")


@dataclass(frozen=True)
class GraphOptions:
    """What to export."""

    size: tuple[int, int] | None = None
    """Height and width to bind the graph to; None: any."""
    confidence: bool = False
    logits: bool = False
    opset: int = DEFAULT_OPSET

    def __post_init__(self) -> None:
        if self.opset not in OPSETS:
            raise UsageError(f"opset {self.opset} is not supported", f"Choose one of {', '.join(map(str, OPSETS))}.")
        if self.size is not None and min(self.size) < 1:
            raise UsageError(f"a size of {self.size[0]}x{self.size[1]} pixels holds no image")


def input_shape(options: GraphOptions) -> tuple[Axis, ...]:
    return ("batch", *(options.size or ("height", "width")), 3)


def output_specs(spec: NetworkSpec, options: GraphOptions) -> tuple[OutputSpec, ...]:
    """The outputs a graph has, in order."""
    batch, height, width = input_shape(options)[:3]
    count = len(spec.classes)
    dtype = "uint8" if class_map_dtype(count) is torch.uint8 else "int32"
    outputs = [
        OutputSpec(name="class_map", dtype=dtype, shape=(batch, height, width), meaning="index of the class of a pixel")
    ]
    if options.confidence:
        meaning = "probability of that class, 0..255 for 0..1"
        outputs.append(OutputSpec(name="confidence", dtype="uint8", shape=(batch, height, width), meaning=meaning))
    if options.logits:
        shape = (batch, count, height, width)
        outputs.append(OutputSpec(name="logits", dtype="float32", shape=shape, meaning="before the softmax"))
    return tuple(outputs)


def export_onnx(
    segmenter: Segmenter, spec: NetworkSpec, metadata: GraphMetadata, path: Path, options: GraphOptions
) -> tuple[str, ...]:
    """Write the graph of a network.

    Args:
        segmenter: the network, in eval mode, on the CPU.
        spec: its classes and input scale.
        metadata: written into the graph's properties.
        path: file to write.
        options: size, further outputs, opset.

    Returns:
        Names of the files written, see `save_graph`.

    Raises:
        ProtosegError: the backbone cannot be traced for images of any size (the hint says what to do).
    """
    fused = _without_training_branches(segmenter)
    gather_windows(fused.backbone.net)
    module = DeployedSegmenter(fused, spec.input_scale, confidence=options.confidence, logits=options.logits).eval()
    outputs = output_specs(spec, options)
    model = _trace(module, options, [output.name for output in outputs], spec.model.backbone)
    fold_deviation(model.graph)
    _clean(model)
    _declare_shapes(model, input_shape(options), outputs)
    model.producer_name, model.producer_version = "protoseg", metadata.program
    onnx.helper.set_model_props(model, metadata.to_properties())
    return save_graph(model, path)


def _without_training_branches(segmenter: Segmenter) -> Segmenter:
    """A copy in which parallel branches (RepVGG, MobileOne, FastViT) are the one convolution they amount to."""
    fused = copy.deepcopy(segmenter)
    fused.backbone.net = reparameterize_model(fused.backbone.net, inplace=True)
    return fused


def save_graph(model: onnx.ModelProto, path: Path, external_above: int = EXTERNAL_ABOVE) -> tuple[str, ...]:
    """Write a graph of any precision and check it; the weights go beside it when it is too large for one file.

    Args:
        model: the graph; when its weights go beside it, they leave `model` as well.
        path: file to write.
        external_above: bytes of weights above which they go to ``<file>.data``, found by its relative name: the two
            files must stay together.

    Returns:
        Names of the files written, the graph first.

    Raises:
        ProtosegError: they cannot be written.
    """
    weights = path.with_name(f"{path.name}.data")
    external = sum(len(weight.raw_data) for weight in model.graph.initializer) > external_above
    scratch = scratch_path(path)
    try:
        scratch.mkdir()
        onnx.save(model, scratch / path.name, save_as_external_data=external, location=weights.name)
        onnx.checker.check_model(scratch / path.name, full_check=True)
        weights.unlink(missing_ok=True)  # of an earlier graph
        for file in (weights, path):
            if (scratch / file.name).exists():
                (scratch / file.name).replace(file)
    except OSError as error:
        raise WriteError(path, error) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return (path.name, weights.name) if external else (path.name,)


def _trace(module: DeployedSegmenter, options: GraphOptions, names: list[str], backbone: str) -> onnx.ModelProto:
    size = options.size or _TRACED_SIZE
    axes = (0,) if options.size else (0, 1, 2)
    noise = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (_TRACED_BATCH, *size, 3), dtype=torch.uint8, generator=noise)
    try:
        with time_limit(f"tracing {backbone}", times=10), _quiet(), _short(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                dynamic_shapes=(dict.fromkeys(axes, torch.export.Dim.DYNAMIC),),
                opset_version=options.opset,
                input_names=["images"],
                output_names=names,
                custom_translation_table=translations(),
                verbose=False,
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, AssertionError, ValueError) as error:
        raise _cannot_trace(backbone, options, error) from error
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    return model


def _cannot_trace(backbone: str, options: GraphOptions, error: Exception) -> ProtosegError:
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)[:300]
    if options.size is None:
        return ProtosegError(
            f"{backbone} cannot be exported for images of any size: {reason}",
            "Bind the graph to one size: --size HEIGHTxWIDTH.",
        )
    return ProtosegError(
        f"{backbone} cannot be exported for images of {options.size[0]}x{options.size[1]}: {reason}",
        "Try another --size, or another backbone.",
    )


@contextlib.contextmanager
def _short() -> Iterator[None]:
    """Have parts of backbones compute the same with shorter formulas, and the exporter find what to rewrite sooner."""
    with constant_same_padding(), counted_windows(), quick_mismatches():
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice to its developers off the screen; errors are raised, not printed."""
    before = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _clean(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes for debugging: stack traces with the paths of the machine, intermediate shapes."""
    graph = model.graph
    graph.ClearField("value_info")
    graph.name = "protoseg"
    for element in (model, graph):
        element.ClearField("doc_string")
        element.ClearField("metadata_props")
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def _declare_shapes(model: onnx.ModelProto, shape: tuple[Axis, ...], outputs: tuple[OutputSpec, ...]) -> None:
    """Call the axes of inputs and outputs by their names; the exporter numbers them."""
    declared: list[tuple[Any, tuple[Axis, ...]]] = [(model.graph.input[0], shape)]
    declared += [(value, output.shape) for value, output in zip(model.graph.output, outputs, strict=True)]
    for value, axes in declared:
        dims = value.type.tensor_type.shape.dim
        assert len(dims) == len(axes)
        for dim, axis in zip(dims, axes, strict=True):
            if isinstance(axis, str):
                dim.dim_param = axis
            else:
                dim.dim_value = axis


def normalisation(segmenter: Segmenter) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation inside the graph, RGB, in units of 0..255."""
    return _three(segmenter.mean), _three(segmenter.std)


def _three(values: Tensor) -> tuple[float, float, float]:
    red, green, blue = (round(float(value), 6) for value in values.flatten())
    return red, green, blue
