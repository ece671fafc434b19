"""Every backbone family computes in every precision what it computes in PyTorch."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from protoseg_deploy.models import DeployedSegmenter, Segmenter
from protoseg_deploy.runtimes.cpu_graph import loadable_on_cpu
from tests.exporting.families import CLASSES, FAMILIES, Family, exported, network, pictures

# What TensorRT refuses or only takes with conditions.
FORBIDDEN_NODES = {"If", "Loop", "Scan", "NonZero", "Upsample", "SequenceAt", "SequenceConstruct"}


def shapes(family: Family) -> list[tuple[int, int, int]]:
    """Batch 1 and 3, odd sizes."""
    return [(1, *family.size), (3, *family.size)] if family.size else [(1, 97, 131), (3, 65, 51)]


def expected_logits(family: Family, images: np.ndarray) -> np.ndarray:
    return logits_of(network(family)[0], images)


def logits_of(segmenter: Segmenter, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return DeployedSegmenter(segmenter).eval().full_size_logits(torch.from_numpy(images)).numpy()


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def run(path: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    session = ort.InferenceSession(loadable_on_cpu(path), providers=["CPUExecutionProvider"])
    class_map, logits = session.run(["class_map", "logits"], {"images": images})
    return class_map, logits


@pytest.mark.parametrize("family", FAMILIES, ids=str)
def test_float32_gives_the_class_maps_of_pytorch(family: Family) -> None:
    model = onnx.load(exported(family))
    assert not {node.op_type for node in model.graph.node} & FORBIDDEN_NODES
    for shape in shapes(family):
        images = pictures(*shape)
        class_map, logits = run(exported(family), images)
        expected = expected_logits(family, images)
        assert (class_map.dtype, class_map.shape) == (np.uint8, shape)
        # not one class everywhere: what follows would prove nothing
        assert (np.bincount(class_map.ravel(), minlength=len(CLASSES)) > 0.05 * class_map.size).sum() >= 2
        tolerance = 1e-3 * expected.std()
        np.testing.assert_allclose(logits, expected, atol=tolerance)
        differs = class_map != expected.argmax(1)
        best_two = np.sort(expected, axis=1)[:, -2:]
        assert not differs.any() or (best_two[:, 1] - best_two[:, 0])[differs].max() < tolerance


def test_training_branches_are_fused() -> None:
    family = next(family for family in FAMILIES if family.backbone == "fastvit_t8")
    operators = [node.op_type for node in onnx.load(exported(family)).graph.node]
    assert "BatchNormalization" not in operators
    modules = network(family)[0].modules()
    assert operators.count("Conv") < 0.85 * sum(isinstance(module, torch.nn.Conv2d) for module in modules)


@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize(
    ("precision", "dtype", "agreement"),
    [("fp16", torch.float16, 0.97), ("bf16", torch.bfloat16, 0.9)],
    ids=["fp16", "bf16"],
)
def test_low_precision_costs_what_rounding_costs(
    family: Family, precision: str, dtype: torch.dtype, agreement: float
) -> None:
    """The error is of the size that PyTorch has in float32 with weights rounded to the type, and nothing else."""
    path = exported(family, precision)
    rounded = copy.deepcopy(network(family)[0])
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.to(dtype))
    for shape in shapes(family):
        images = pictures(*shape)
        class_map, logits = run(path, images)
        expected = expected_logits(family, images)
        error, usual = (rms(values - expected) for values in (logits, logits_of(rounded, images)))
        assert 0.25 * usual < error < 5 * usual
        assert np.mean(class_map == expected.argmax(1)) > agreement
    assert path.stat().st_size < 0.62 * exported(family).stat().st_size
