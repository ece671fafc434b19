"""The exported graph computes what PyTorch computes, at any size, and holds nothing else."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting import GraphOptions, export_onnx
from protoseg_deploy.exporting.tracing.onnx_export import OPSETS, save_graph
from protoseg_deploy.exporting.tracing.resampling import translations
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, Segmenter, build_segmenter
from protoseg_deploy.recipe import ClassTable, Model
from tests.exporting.families import Family, exported, metadata, pictures
from tests.exporting.test_families import FORBIDDEN_NODES

CLASSES = ClassTable(("a", "b", "c"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
BINARY = ClassTable(("background", "cell"), ((0, 0, 0), (255, 0, 0)), binary=True)


def network(
    backbone: str, decoder: str, scale: float = 1.0, classes: ClassTable = CLASSES
) -> tuple[Segmenter, NetworkSpec]:
    torch.manual_seed(0)
    spec = NetworkSpec(Model(backbone=backbone, weights="none", decoder=decoder, decoder_channels=16), classes, scale)
    segmenter = build_segmenter(spec).eval()
    if segmenter.backbone.is_plain_vit:
        # timm starts them almost at zero, where wrong resampling would not show
        torch.nn.init.normal_(segmenter.backbone.net.model.pos_embed)
    return segmenter, spec


def export(segmenter: Segmenter, spec: NetworkSpec, path: Path, **options: object) -> onnx.ModelProto:
    chosen = GraphOptions(**options)
    export_onnx(segmenter, spec, metadata(segmenter, spec, chosen), path, chosen)
    return onnx.load(path)


def axes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def check_against_pytorch(path: Path, module: DeployedSegmenter, images: np.ndarray) -> None:
    """Class maps agree wherever the two best logits are further apart than rounding moves them."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"images": images}), strict=True))
    with torch.inference_mode():
        logits = module.full_size_logits(torch.from_numpy(images))
    assert found["class_map"].dtype == np.uint8
    assert found["class_map"].shape == images.shape[:3]
    tolerance = 1e-3 * float(logits.std())
    best, second = logits.topk(2, dim=1).values.unbind(1)
    differs = torch.from_numpy(found["class_map"].astype(np.int64)) != logits.argmax(1)
    assert float((best - second)[differs].max() if differs.any() else 0.0) < tolerance
    if "logits" in found:
        np.testing.assert_allclose(found["logits"], logits.numpy(), atol=tolerance)
    if "confidence" in found:
        probability = logits.softmax(1).amax(1).numpy() * 255
        assert np.abs(found["confidence"] - probability).max() <= 0.51


@pytest.mark.parametrize(
    ("backbone", "decoder", "scale", "classes"),
    [
        ("resnet10t", "deeplabv3plus", 1.0, CLASSES),
        ("resnet10t", "lraspp", 0.75, BINARY),
        ("test_vit", "fpn", 0.5, CLASSES),
    ],
)
def test_one_graph_for_all_sizes(
    tmp_path: Path, backbone: str, decoder: str, scale: float, classes: ClassTable
) -> None:
    segmenter, spec = network(backbone, decoder, scale, classes)
    model = export(segmenter, spec, tmp_path / "model.onnx", confidence=True, logits=True)

    module = DeployedSegmenter(segmenter, scale).eval()
    noise = np.random.default_rng(0)
    for batch, height, width in [(1, 97, 131), (3, 64, 50), (1, 33, 270)]:
        images = noise.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        check_against_pytorch(tmp_path / "model.onnx", module, images)

    count = len(classes)
    assert [axes(value) for value in model.graph.input] == [["batch", "height", "width", 3]]
    assert {value.name: axes(value) for value in model.graph.output} == {
        "class_map": ["batch", "height", "width"],
        "confidence": ["batch", "height", "width"],
        "logits": ["batch", count, "height", "width"],
    }
    assert not {node.op_type for node in model.graph.node} & FORBIDDEN_NODES
    antialiased = [a.i for n in model.graph.node if n.op_type == "Resize" for a in n.attribute if a.name == "antialias"]
    assert not any(antialiased)


def test_graph_bound_to_one_size(tmp_path: Path) -> None:
    segmenter, spec = network("resnet10t", "lraspp")
    model = export(segmenter, spec, tmp_path / "model.onnx", size=(50, 70), opset=20)
    assert axes(model.graph.input[0]) == ["batch", 50, 70, 3]
    assert axes(model.graph.output[0]) == ["batch", 50, 70]
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [20]
    images = np.random.default_rng(1).integers(0, 256, (3, 50, 70, 3), dtype=np.uint8)
    check_against_pytorch(tmp_path / "model.onnx", DeployedSegmenter(segmenter).eval(), images)


@pytest.mark.parametrize("opset", sorted(set(OPSETS) - {18, 20}))  # those are in other tests
def test_other_opsets_say_the_same(tmp_path: Path, opset: int) -> None:
    segmenter, spec = network("test_efficientnet", "lraspp")
    model = export(segmenter, spec, tmp_path / "model.onnx", logits=True, opset=opset)
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [opset]
    images = np.random.default_rng(1).integers(0, 256, (1, 97, 131, 3), dtype=np.uint8)
    check_against_pytorch(tmp_path / "model.onnx", DeployedSegmenter(segmenter).eval(), images)


def test_weights_beside_the_graph(tmp_path: Path) -> None:
    """What happens above 2 GB, at a size that can be tested."""
    path, family = tmp_path / "model.onnx", Family("resnet10t", "lraspp")
    assert save_graph(onnx.load(exported(family)), path) == ("model.onnx",)
    whole = path.stat().st_size
    assert save_graph(onnx.load(exported(family)), path, external_above=100_000) == ("model.onnx", "model.onnx.data")
    assert path.stat().st_size < 0.05 * whole
    # The two files can be moved together.
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).rename(folder / name)
    images = pictures(1, 65, 51)
    one, two = (
        ort.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"images": images})
        for file in (exported(family), folder / "model.onnx")
    )
    for found, expected in zip(two, one, strict=True):
        np.testing.assert_array_equal(found, expected)
    # Written once more in one file, nothing of the two is left.
    assert save_graph(onnx.load(folder / "model.onnx"), folder / "model.onnx") == ("model.onnx",)
    assert [file.name for file in folder.iterdir()] == ["model.onnx"]
    assert abs((folder / "model.onnx").stat().st_size - whole) < 10_000


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(ProtosegError, match="cannot write"):
        save_graph(onnx.load(exported(Family("resnet10t", "lraspp"))), tmp_path / "missing" / "model.onnx")


def test_only_the_network_is_in_the_graph(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No prototype bank, no second head, no path of the machine, and no word from the exporter."""
    segmenter, spec = network("resnet10t", "deeplabv3plus")
    model = export(segmenter, spec, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert [value.name for value in model.graph.output] == ["class_map"]
    names = [entry.name for entry in (*model.graph.node, *model.graph.initializer)]
    assert not [name for name in names if "proto" in name.lower() or "bank" in name.lower()]
    classes, dims = len(spec.classes), segmenter.feature_channels("head_input")
    for initializer in model.graph.initializer:
        shape = list(initializer.dims)
        assert not (len(shape) == 3 and shape[0] == classes and shape[-1] == dims), initializer.name
        assert not (len(shape) == 2 and shape[-1] == dims and shape[0] % classes == 0), initializer.name
    weights = sum(int(np.prod(entry.dims)) for entry in model.graph.initializer)
    assert weights <= 1.01 * sum(p.numel() for p in [*segmenter.parameters(), *segmenter.buffers()])
    content = (tmp_path / "model.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert not any(entry.external_data for entry in model.graph.initializer)


class Resample(torch.nn.Module):
    def forward(self, grid: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(grid, size=like.shape, mode="bicubic", antialias=True)


def test_antialiased_resampling_equals_pytorch() -> None:
    axis = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        Resample().eval(),
        (torch.randn(1, 4, 14, 14), torch.zeros(11, 13)),
        dynamo=True,
        dynamic_shapes={"grid": None, "like": {0: axis, 1: axis}},
        opset_version=18,
        custom_translation_table=translations(),
        verbose=False,
    )
    assert "Resize" not in {node.op_type for node in program.model_proto.graph.node}
    session = ort.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    grid = torch.randn(1, 4, 14, 14, generator=torch.Generator().manual_seed(0))
    for target in [(7, 9), (14, 14), (5, 31), (40, 3)]:
        like = torch.zeros(target)
        found = session.run(None, {"grid": grid.numpy(), "like": like.numpy()})[0]
        np.testing.assert_allclose(found, Resample()(grid, like).numpy(), atol=1e-5)


def test_what_cannot_be_traced_says_what_to_do(tmp_path: Path) -> None:
    segmenter, spec = network("resnet10t", "lraspp")
    forward = segmenter.forward_features
    # A branch on the content of the image has no place in a graph.
    segmenter.forward_features = lambda images: forward(images) if images.float().mean() > 3 else forward(-images)
    with pytest.raises(ProtosegError, match="resnet10t cannot be exported for images of any size") as caught:
        export(segmenter, spec, tmp_path / "model.onnx")
    assert "--size" in caught.value.hint
    assert not (tmp_path / "model.onnx").exists()


def test_unknown_opset() -> None:
    with pytest.raises(UsageError, match="opset 17"):
        GraphOptions(opset=17)
