"""What makes graphs faster leaves their numbers as they are, and itself out where it does not fit."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from protoseg_deploy.exporting.tracing.folding import fold_deviation
from protoseg_deploy.exporting.tracing.resampling import translations
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, build_segmenter
from protoseg_deploy.models.deployed import upsample_rows
from protoseg_deploy.recipe import ClassTable, Model

AXIS = torch.export.Dim.DYNAMIC


def trace(module: nn.Module, example: torch.Tensor, axes: tuple[int, ...]) -> onnx.ModelProto:
    program = torch.onnx.export(
        module.eval(),
        (example,),
        dynamo=True,
        dynamic_shapes=(dict.fromkeys(axes, AXIS),),
        opset_version=18,
        input_names=["images"],
        custom_translation_table=translations(),
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images})[0]


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


class Upsampled(nn.Module):
    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        rows = upsample_rows(logits, (3 * logits.shape[2] + 1, 4 * logits.shape[3] + 3))
        return rows.argmax(dim=2).to(torch.int32)


@pytest.mark.parametrize("count", [2, 300])
def test_rows_are_resized_channels_last(count: int) -> None:
    """No transposition of the large tensor is left, and the class map is that of NumPy's argmax."""
    model = trace(Upsampled(), torch.randn(2, count, 6, 5), (0, 2, 3))
    resizes = [index for index, node in enumerate(model.graph.node) if node.op_type == "Resize"]
    assert len(resizes) == 2
    assert "Transpose" not in {node.op_type for node in list(model.graph.node)[resizes[0] :]}
    for batch, height, width in [(1, 6, 9), (3, 4, 2)]:
        logits = torch.randn(batch, count, height, width, generator=torch.Generator().manual_seed(0))
        full = F.interpolate(logits, size=(3 * height + 1, 4 * width + 3), mode="bilinear", align_corners=False).numpy()
        found = run(model, logits.numpy())
        chosen = np.take_along_axis(full, found[:, None].astype(np.int64), axis=1)[:, 0]
        assert np.abs(chosen - full.max(axis=1)).max() < 1e-5
    zeros = run(model, np.zeros((1, count, 3, 3), dtype=np.float32))
    assert not zeros.any()  # the first of equal classes


@pytest.fixture(scope="module")
def deployed() -> DeployedSegmenter:
    torch.manual_seed(0)
    table = ClassTable(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
    model = Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16)
    segmenter = build_segmenter(NetworkSpec(model, table, 0.5)).eval()
    # A bias makes it matter that only the weights are divided, and the border that the mean is not folded in.
    for module in segmenter.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.bias, -1, 1)
    return DeployedSegmenter(segmenter, 0.5, logits=True).eval()


def test_a_whole_network(deployed: DeployedSegmenter) -> None:
    model = trace(deployed, torch.randint(0, 256, (2, 141, 203, 3), dtype=torch.uint8), (0, 1, 2))
    assert fold_deviation(model.graph)
    assert "Gather" not in kinds(model)  # what the exporter makes of a global average by itself
    constants = {entry.name: entry.dims for entry in model.graph.initializer}
    on_images = {node.op_type for node in model.graph.node for name in node.input if 3 in constants.get(name, [])[1:2]}
    assert on_images == {"Sub", "Conv"}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, height, width in [(1, 97, 131), (3, 64, 50)]:
        images = np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        with torch.no_grad():
            expected = deployed.full_size_logits(torch.from_numpy(images)).numpy()
        _, logits = session.run(None, {"images": images})
        np.testing.assert_allclose(logits, expected, atol=1e-3 * expected.std())


class Stem(nn.Module):
    """Normalisation and a first layer with every variation that matters."""

    def __init__(self, *, pad: bool = False, groups: int = 1, twice: bool = False, seen: bool = False) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6, 3, padding=0 if pad else 1, groups=groups)
        self.other = nn.Conv2d(3, 6, 3, padding=1)
        self.pad, self.twice, self.seen = pad, twice, seen
        self.register_buffer("mean", torch.tensor([120.0, 115.0, 100.0]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([58.0, 2.0, 57.0]).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = (images - self.mean) / self.std
        given = F.pad(normalised, (1, 1, 1, 1)) if self.pad else normalised
        result = self.convolution(given)
        if self.twice:
            result = result + self.other(normalised)
        return result + normalised.mean() if self.seen else result


@pytest.mark.parametrize(
    ("variation", "folds"),
    [({}, True), ({"pad": True}, True), ({"twice": True}, True), ({"seen": True}, False), ({"groups": 3}, False)],
)
def test_the_deviation_goes_into_the_first_convolutions(variation: dict[str, int], folds: bool) -> None:
    torch.manual_seed(0)
    stem = Stem(**variation)
    model = trace(stem, torch.rand(2, 3, 11, 13) * 255, (0, 2, 3))
    divisions = kinds(model)["Div"]
    assert divisions >= 1
    assert fold_deviation(model.graph) is folds
    assert kinds(model)["Div"] == divisions - folds
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 9, 20)).astype(np.float32)
    with torch.no_grad():
        expected = stem(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run(model, images), expected, rtol=1e-3, atol=1e-3)
