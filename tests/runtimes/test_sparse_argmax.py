"""Logits are upsampled only where classes meet, and every pixel has the class that it has without."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.exporting.low_precision.casting import cast_graph
from protoseg_deploy.exporting.tracing.onnx_export import GraphOptions, export_onnx
from protoseg_deploy.models import NetworkSpec
from protoseg_deploy.recipe import ClassTable, Model
from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu
from protoseg_deploy.runtimes.sparse_argmax import with_sparse_argmax
from tests.exporting.families import CLASSES, metadata, pictures
from tests.exporting.one_family import random_network

SIZES = ((64, 96), (61, 83), (33, 32), (7, 128))


class Grey(nn.Module):
    """In place of a backbone: the mean of the normalised channels, at a stride."""

    size_multiple = 1

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride, self.net = stride, nn.Identity()

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = ((side + self.stride - 1) // self.stride for side in images.shape[2:])
        return [F.interpolate(images.mean(1, keepdim=True), size=(height, width), mode="bilinear")]


class Blobs(nn.Module):
    """In place of a decoder: areas in which one class wins; logits in steps of 1/8, so that many are equal."""

    centres: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(-1, 1, classes).view(1, -1, 1, 1))

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        logits = ((pyramid[0] - self.centres).abs() * -40).round() / 8
        return logits, logits


def blobs(classes: int, stride: int, path: Path, opset: int = 18) -> ModelProto:
    """A graph of those, written to `path`."""
    colors = tuple((number % 256, number // 256, 0) for number in range(classes))
    table = ClassTable(tuple(map(str, range(classes))), colors)
    spec = NetworkSpec(Model(backbone="test_resnet", weights="none", decoder="lraspp"), table)
    segmenter, options = random_network(spec), GraphOptions(opset=opset)
    described = metadata(segmenter, spec, options)
    segmenter.backbone, segmenter.decoder, segmenter.head = Grey(stride), Blobs(classes), nn.Identity()
    export_onnx(segmenter, spec, described, path, options)
    return onnx.load(path)


def smooth(batch: int, height: int, width: int) -> np.ndarray:
    """``[B,H,W,3]`` uint8: large blotches."""
    random = torch.Generator().manual_seed(3)
    coarse = torch.rand(batch, 3, 4, 4, generator=random) * 255
    large = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 255)
    return large.byte().permute(0, 2, 3, 1).contiguous().numpy()


def run(model: ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(["class_map"], {"images": images})[0]
    return found


def choice_of(model: ModelProto) -> onnx.NodeProto:
    (choice,) = (node for node in model.graph.node if node.op_type == "If")
    return choice


@pytest.mark.parametrize(
    ("classes", "stride", "opset"),
    [(2, 4, 18), (11, 4, 23), (11, 7, 18), (5, 16, 18), (3, 1, 18), (300, 8, 18)],
)
def test_class_maps_are_equal_to_the_last_pixel(tmp_path: Path, classes: int, stride: int, opset: int) -> None:
    """More than 256 classes have int32 maps."""
    plain = blobs(classes, stride, tmp_path / "model.onnx", opset)
    sparse = with_sparse_argmax(plain, most_mixed=2.0)
    assert choice_of(sparse).output == ["class_map"]
    onnx.checker.check_model(sparse)
    for size in SIZES:
        images = smooth(3, *size)
        expected = run(plain, images)
        assert len(np.unique(expected)) > 1
        assert np.array_equal(run(sparse, images), expected)


def test_an_image_of_one_class(tmp_path: Path) -> None:
    plain = blobs(4, 8, tmp_path / "model.onnx")
    images = np.full((2, 50, 70, 3), 255, np.uint8)
    assert np.array_equal(run(with_sparse_argmax(plain, 0.3), images), np.full((2, 50, 70), 3))


@pytest.mark.parametrize(("most_mixed", "expected"), [(0.0, False), (0.3, True)])
def test_how_many_mixed_cells_are_worth_it(tmp_path: Path, most_mixed: float, expected: bool) -> None:
    model = with_sparse_argmax(blobs(4, 4, tmp_path / "model.onnx"), most_mixed)
    asked = choice_of(model).input[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(asked, onnx.TensorProto.BOOL, []))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = smooth(1, 128, 128)
    assert session.run([asked], {"images": images})[0] == expected
    if expected:
        noise = np.random.default_rng(0).integers(0, 256, (1, 128, 128, 3)).astype(np.uint8)
        assert not session.run([asked], {"images": noise})[0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("backbone", "scale", "size"),
    [
        ("test_resnet", 1.0, None),
        ("test_resnet", 0.5, None),
        ("test_resnet", 0.5, (90, 70)),
        ("test_efficientnet", 1.0, (90, 70)),
        ("tf_efficientnet_lite0", 1.0, None),
        ("tf_efficientnet_lite0", 0.75, None),
    ],
)
def test_graphs_of_this_program_are_rewritten(
    tmp_path: Path, backbone: str, scale: float, size: tuple[int, int] | None, precision: str
) -> None:
    """Any size and one, scaled images and padded ones, fp32 and emulated fp16."""
    model = Model(backbone=backbone, weights="none", decoder="lraspp", decoder_channels=16)
    spec = NetworkSpec(model, CLASSES, input_scale=scale)
    segmenter, path, options = random_network(spec), tmp_path / "model.onnx", GraphOptions(size)
    export_onnx(segmenter, spec, metadata(segmenter, spec, options), path, options)
    plain = onnx.load(path)
    if precision == "fp16":
        plain, _ = cast_graph(plain, "fp16")
        onnx.save(plain, path)
    sparse = with_sparse_argmax(plain, most_mixed=2.0)
    assert choice_of(sparse).output == ["class_map"]
    assert choice_of(onnx.load_from_string(loadable_on_cpu(path))).output == ["class_map"]
    assert loadable_on_cpu(path, threads=16).count(b"sparse_argmax") == 0
    for each in (size,) if size else SIZES:
        images = pictures(2, *each)
        assert np.array_equal(run(sparse, images), run(plain, images))


def test_graphs_with_further_outputs_are_left_alone(tmp_path: Path) -> None:
    spec = NetworkSpec(Model(backbone="test_resnet", weights="none", decoder="lraspp", decoder_channels=16), CLASSES)
    segmenter, path, options = random_network(spec), tmp_path / "model.onnx", GraphOptions(confidence=True)
    export_onnx(segmenter, spec, metadata(segmenter, spec, options), path, options)
    assert loadable_on_cpu(path) == onnx.load(path).SerializeToString()


@pytest.mark.parametrize("operation", ["Cast", "ArgMax", "Resize", "Concat", "Transpose"])
def test_graphs_that_were_tampered_with_are_left_alone(tmp_path: Path, operation: str) -> None:
    """ONNX Runtime says what is wrong with them."""
    model = blobs(4, 8, tmp_path / "model.onnx")
    for node in model.graph.node:
        if node.op_type == operation:
            del node.input[1 if operation in ("Resize", "Concat") else 0 :]
    assert with_sparse_argmax(model, 0.3) is model
