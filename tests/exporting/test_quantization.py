"""Int8 graphs against what they were made from, ranges against plain loops, and the budget against planted trouble."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image

from protoseg_deploy.bundles import GraphMetadata
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting.int8.calibration import METHODS, value_ranges
from protoseg_deploy.exporting.int8.plan import plan_int8
from protoseg_deploy.exporting.int8.quantization import load_float32, quantize_graph, quantize_model
from protoseg_deploy.exporting.int8.sensitivity import GroupNoise, spend_least
from protoseg_deploy.exporting.int8.symmetry import symmetric_graph
from tests.exporting.conftest import scene
from tests.exporting.families import EVERY, FAMILIES, SPREAD, Family, exported, pictures

IMAGES = 8


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Unlabelled images of the kind `colour_run` learnt, all of different size."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(IMAGES):
        image, _ = scene(200 + number, 64 + 7 * number, 96 - 5 * number)
        Image.fromarray(image).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def fp32(good_bundle: Path) -> Path:
    return good_bundle / "model.onnx"


@pytest.fixture(scope="module")
def int8(fp32: Path, scenes: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "model.int8.onnx"
    quantize_graph(fp32, path, scenes)
    return path


def run(model: Path | ModelProto, images: NDArray[np.uint8], *outputs: str) -> list[NDArray]:
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(list(outputs) or ["class_map"], {"images": images})


def weights(model: ModelProto) -> Mapping[str, NDArray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def agreement(first: NDArray, second: NDArray) -> float:
    return float(np.mean(first == second))


def unseen(batch: int = 3) -> NDArray[np.uint8]:
    return np.stack([scene(300 + number, 77, 101)[0] for number in range(batch)])


def test_int8_graph_does_what_the_fp32_graph_does(fp32: Path, int8: Path) -> None:
    images = unseen()
    assert agreement(run(fp32, images)[0], run(int8, images)[0]) > 0.98
    before, after = onnx.load(fp32), onnx.load(int8)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert [entry.domain for entry in after.opset_import] == [""]
    described = [GraphMetadata.from_properties({p.key: p.value for p in m.metadata_props}, "") for m in (before, after)]
    assert described[1] == described[0].model_copy(update={"precision": "int8"})
    assert int8.stat().st_size < 0.3 * fp32.stat().st_size


def test_every_layer_is_quantised_and_nothing_around_the_network(fp32: Path, int8: Path) -> None:
    model = onnx.load(int8)
    source = {name: node for node in model.graph.node for name in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    layers = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(layers) == sum(node.op_type == "Conv" for node in onnx.load(fp32).graph.node)
    for layer in layers:
        assert all(source[name].op_type == "DequantizeLinear" for name in layer.input)
        assert readers[layer.output[0]].op_type == "QuantizeLinear", "a rectifier would keep it from being fused"
    after_logits = {value.name for value in model.graph.output}
    for node in reversed(model.graph.node):
        if after_logits.intersection(node.output) and node.op_type != "DequantizeLinear":
            assert node.op_type != "QuantizeLinear" or node is readers[layers[-1].output[0]]
            if node is readers[layers[-1].output[0]]:
                break
            after_logits.update(node.input)


def test_weights_are_rounded_to_the_nearest_of_255_levels_a_channel(fp32: Path, int8: Path) -> None:
    exact, rounded = weights(onnx.load(fp32)), weights(onnx.load(int8))
    checked = 0
    for name, weight in exact.items():
        if f"{name}_quantized" not in rounded or weight.ndim != 4:
            continue
        largest = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
        scale = rounded[f"{name}_scale"].reshape(-1, 1, 1, 1)
        assert rounded[f"{name}_quantized"].dtype == np.int8
        assert scale == pytest.approx(np.maximum(largest, 1e-30) / 127, rel=1e-4)
        error = np.abs(rounded[f"{name}_quantized"] * scale - weight)
        assert (error <= scale * 0.501).all()
        checked += 1
    assert checked > 10


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_the_images(method, fp32: Path, scenes: list[Path]) -> None:
    model = load_float32(fp32)
    names = sorted(plan_int8(model).values)[::6]
    images = [np.asarray(Image.open(path)) for path in scenes]
    found = value_ranges(model, frozenset(names), images, method)
    assert sorted(found) == names
    tapped = ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    seen = [run(tapped, image[None], *names) for image in images]
    for place, name in enumerate(names):
        low, high = (float(pick([pick(values[place]) for values in seen])) for pick in (np.min, np.max))
        slack = 1e-5 * (high - low)
        if method == "minmax":
            assert found[name] == pytest.approx((low, high), abs=slack)
        else:
            assert low - slack <= found[name][0] < found[name][1] <= high + slack
            cell = 2 * max(-low, high) / 512  # histograms see no finer
            values = np.concatenate([v[place].ravel() for v in seen])
            inside = np.mean((values >= found[name][0] - cell) & (values <= found[name][1] + cell))
            assert inside > (0.999 if method == "percentile" else 0.9)


def test_report_says_what_was_done(fp32: Path, scenes: list[Path], tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    target = tmp_path / "a.onnx"
    report = quantize_graph(fp32, target, scenes, method="minmax", count=3, progress=lambda *p: done.append(p))
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert (report.images, report.method, report.steps, report.kept_groups) == (3, "minmax", (), ())
    assert "calibrated on 3 images" in report.warnings[0]
    assert report.quantized_nodes == len(plan_int8(load_float32(fp32)).nodes)
    conversion = report.to_conversion()
    assert conversion["images_sha256"] == report.images_sha256
    others = quantize_graph(fp32, tmp_path / "b.onnx", scenes[1:], method="minmax", count=3)
    assert others.images_sha256 != report.images_sha256
    quantize_graph(fp32, tmp_path / "c.onnx", scenes, method="minmax", count=3)
    assert (tmp_path / "c.onnx").read_bytes() == target.read_bytes()
    assert (tmp_path / "b.onnx").read_bytes() != target.read_bytes()


def test_user_errors(fp32: Path, scenes: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images to calibrate on"):
        quantize_graph(fp32, tmp_path / "x.onnx", [])
    with pytest.raises(UsageError, match="entropy, percentile, minmax"):
        quantize_graph(fp32, tmp_path / "x.onnx", scenes, method="median")  # type: ignore[arg-type]
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ProtosegError, match=r"broken\.onnx"):
        quantize_graph(tmp_path / "broken.onnx", tmp_path / "x.onnx", scenes)
    assert not (tmp_path / "x.onnx").exists()


def plant_outliers(source: Path, target: Path) -> set[str]:
    """One channel between the first two layers grows a thousandfold, and the second layer ignores it.

    float32 does not mind; of the other channels, one scale for all leaves nothing. Returns the groups of both layers.
    """
    model = load_float32(source)
    plan = plan_int8(model)
    nodes = {node.name: node for node in model.graph.node}
    arrays = {tensor.name: tensor for tensor in model.graph.initializer}
    first = next(name for name in plan.nodes if nodes[name].op_type == "Conv")
    rectifier = next(node for node in model.graph.node if nodes[first].output[0] in node.input)
    second = next(node for node in model.graph.node if rectifier.output[0] in node.input)
    assert (rectifier.op_type, second.op_type) == ("Relu", "Conv")
    for name, index in ((nodes[first].input[1], 0), (nodes[first].input[2], 0)):
        array = numpy_helper.to_array(arrays[name]).copy()
        array[index] = np.abs(array[index]) * 1000 + 1  # always seen, whatever the image
        arrays[name].CopyFrom(numpy_helper.from_array(array, name))
    array = numpy_helper.to_array(arrays[second.input[1]]).copy()
    array[:, 0] = 0
    arrays[second.input[1]].CopyFrom(numpy_helper.from_array(array, second.input[1]))
    onnx.save(model, target)
    return {group for group, names in plan.groups.items() if first in names or second.name in names}


def test_a_part_that_suffers_stays_in_float32(fp32: Path, scenes: list[Path], tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    groups = plant_outliers(fp32, graph)
    images = unseen()
    expected = run(graph, images)[0]

    def evaluate(candidate: Path) -> float:
        return 100 * agreement(run(candidate, images)[0], expected)

    target = tmp_path / "int8.onnx"
    report = quantize_graph(graph, target, scenes, method="minmax", evaluate=evaluate, max_drop=2.0)
    assert report.steps[0].kept_groups == ()
    assert report.steps[0].drop_points > 2.0, "the planted outlier does no harm: the test is void"
    assert groups <= set(report.kept_groups)
    assert len(report.kept_groups) <= 4
    assert report.drop_points is not None
    assert report.drop_points <= 2.0
    assert evaluate(target) == pytest.approx(report.int8_percent)
    assert report.fp32_percent == 100.0


def fake_search(harm: Mapping[str, float], max_drop: float) -> tuple[set[str], tuple, list[int]]:
    """Search over groups whose harms simply add up."""
    kept_sets: list[frozenset[str]] = []

    def build(keep: frozenset[str]) -> ModelProto:
        return ModelProto(doc_string=",".join(sorted(keep)))

    def measure(model: ModelProto) -> float:
        kept = set(model.doc_string.split(","))
        kept_sets.append(frozenset(kept))
        return 50.0 - sum(value for name, value in harm.items() if name not in kept)

    rank: Callable[[], list[GroupNoise]] = lambda: [  # noqa: E731
        GroupNoise(name, -value) for name, value in sorted(harm.items(), key=lambda item: -item[1])
    ]
    model, steps = spend_least(build, measure, rank, 50.0, max_drop)
    return set(filter(None, model.doc_string.split(","))), steps, [len(kept) for kept in kept_sets]


@pytest.mark.parametrize("seed", range(20))
def test_search_keeps_as_few_groups_as_the_ranking_allows(seed: int) -> None:
    random = np.random.default_rng(seed)
    harm = {f"g{number}": float(random.exponential()) ** 3 for number in range(random.integers(2, 30))}
    worst_first = sorted(harm.values(), reverse=True)
    budget = float(random.uniform(worst_first[-1], sum(worst_first)))
    fewest = next(n for n in range(len(harm) + 1) if sum(worst_first[n:]) <= budget + 1e-9)
    kept, steps, measured = fake_search(harm, budget + 1e-9)
    assert len(kept) == fewest
    assert len(measured) <= 2 * np.log2(len(harm)) + 3
    best = [step for step in steps if step.drop_points <= budget + 1e-9][-1]
    assert set(best.kept_groups) == kept


def test_search_gives_up_with_figures() -> None:
    with pytest.raises(ProtosegError, match=r"loses 9\.00 points .* still 3\.00 with 2 parts"):
        fake_search({"a": 3.0, "b": 3.0, "c": 3.0}, 1.0)


def test_symmetric_graph_for_tensorrt(fp32: Path, int8: Path) -> None:
    symmetric = symmetric_graph(onnx.load(int8))
    onnx.checker.check_model(symmetric, full_check=True)
    arrays = weights(symmetric)
    rounding = [node for node in symmetric.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]
    assert rounding
    for node in rounding:
        assert arrays[node.input[2]].dtype == np.int8
        assert not arrays[node.input[2]].any()
    assert not any(array.dtype in (np.uint8, np.int32) for array in arrays.values())
    assert agreement(run(fp32, unseen())[0], run(symmetric, unseen())[0]) > 0.97


@pytest.mark.parametrize("family", FAMILIES if EVERY else SPREAD, ids=str)
def test_families(family: Family, tmp_path: Path) -> None:
    """Every layer of every family finds its place in an int8 graph, and what comes out is what came out before."""
    graph, target = exported(family), tmp_path / "int8.onnx"
    height, width = family.size or (93, 122)
    for number in range(3):
        Image.fromarray(pictures(1, 96, 128, seed=number)[0]).save(tmp_path / f"{number}.png")
    quantize_graph(graph, target, sorted(tmp_path.glob("*.png")), method="minmax")
    model = onnx.load(target)
    layers = [node for node in model.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"}]
    arrays = weights(model)
    assert not any(name in arrays and arrays[name].size > 4096 for node in layers for name in node.input[1:2])
    images = pictures(3, height, width, seed=9)
    exact, rounded = (run(path, images, "logits")[0] for path in (graph, target))
    signal_to_noise_db = 10 * np.log10(np.square(exact).sum() / np.square(exact - rounded).sum())
    assert signal_to_noise_db > 6
    symmetric = run(symmetric_graph(model), images, "logits")[0]
    assert 10 * np.log10(np.square(exact).sum() / np.square(exact - symmetric).sum()) > 4


def test_kept_groups_are_float32(fp32: Path, scenes: list[Path]) -> None:
    model = load_float32(fp32)
    plan = plan_int8(model)
    images = [np.asarray(Image.open(path)) for path in scenes[:2]]
    ranges = value_ranges(model, plan.values, images, "minmax")
    group = next(name for name in plan.groups if "layer3" in name)
    kept = quantize_model(model, ranges, frozenset({group}))
    exact = weights(model)
    names = {n for node in model.graph.node if node.name in plan.groups[group] for n in node.input if n in exact}
    assert names
    assert all(np.array_equal(weights(kept)[name], exact[name]) for name in names)
    everything = quantize_model(model, ranges, frozenset(plan.groups))
    assert not any(node.op_type == "QuantizeLinear" for node in everything.graph.node)
    assert np.array_equal(run(everything, unseen())[0], run(fp32, unseen())[0])
