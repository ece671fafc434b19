"""Engines are built from every graph this program exports, are what they say, and say why when they cannot be.

TensorRT-RTX parses and builds without a GPU, so all of that is real here. Each family is built in two precisions for
one GPU generation each, such that every precision meets every generation it can run on. All of them at once:
``PROTOSEG_ALL_ENGINES=1``.
"""

import functools
import os
from collections import Counter
from itertools import product
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.choices import PRECISIONS, Precision
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting.engines.building import build_engine
from protoseg_deploy.exporting.engines.options import EngineOptions, engine_name
from protoseg_deploy.exporting.int8.quantization import quantize_graph
from protoseg_deploy.exporting.int8.symmetry import symmetric_graph
from protoseg_deploy.exporting.tracing.onnx_export import save_graph
from protoseg_deploy.runtimes.tensorrt import Profile, read_sidecar
from tests.exporting.families import FAMILIES, Family, exported, pictures

pytest.importorskip("tensorrt_rtx")

TURING = "7.5"
TARGETS = (TURING, "8.6", "8.9", "12.0")
# Their matrix products are why TensorRT-RTX does not build them for Turing in float32, nor in int8.
WITH_PRODUCTS = ("test_convnext", "swin", "vit")
HEAVY = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
SMALL = Family("resnet10t", "lraspp")


def targets(family: Family, precision: Precision) -> tuple[str, ...]:
    """Compute capabilities that a family can be built for."""
    old = precision != "bf16" and (precision == "fp16" or not family.backbone.startswith(WITH_PRODUCTS))
    return TARGETS if old else TARGETS[1:]


def spread() -> list[tuple[Family, Precision, tuple[str, ...]]]:
    """What to build: everything, or each family in two precisions."""
    everything = list(product(FAMILIES, PRECISIONS))
    if os.environ.get("PROTOSEG_ALL_ENGINES"):
        return [(family, precision, targets(family, precision)) for family, precision in everything]
    chosen = []
    used: Counter[tuple[Precision, str]] = Counter()
    for number, family in enumerate(FAMILIES):
        # The precision that gets Turing first, since not every one can have it; then what was built least so far.
        able = [precision for precision in PRECISIONS if TURING in targets(family, precision)]
        turing = able[number % len(able)]
        others = [precision for precision in PRECISIONS if precision != turing]
        chosen.append((family, turing, (TURING,)))
        pair = min(product(others, TARGETS[1:]), key=lambda pair: used[pair])
        used[pair] += 1
        chosen.append((family, pair[0], (pair[1],)))
    left = [pair for pair in product(PRECISIONS, TARGETS[1:]) if not used[pair]]
    chosen += [(SMALL, precision, (target,)) for precision, target in left]
    return chosen


@functools.cache
def graph(family: Family, precision: Precision) -> Path:
    if precision != "int8":
        return exported(family, precision)
    fp32 = exported(family)
    images = []
    for number, picture in enumerate(pictures(2, 96, 96, seed=1)):
        images.append(fp32.with_name(f"calibration{number}.png"))
        Image.fromarray(picture).save(images[-1])
    target = fp32.with_name(f"{family}.int8.onnx")
    quantize_graph(fp32, target, images, method="minmax")
    save_graph(symmetric_graph(onnx.load(target)), target)
    return target


def rtx(*target_sm: str, profile: Profile | None = None) -> EngineOptions:
    return EngineOptions("tensorrt-rtx", target_sm=target_sm, profile=profile)


@pytest.mark.parametrize(
    ("family", "precision", "target_sm"),
    [pytest.param(*case, id=f"{case[0]}-{case[1]}-{'+'.join(case[2])}") for case in spread()],
)
def test_every_precision_of_every_family(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Family, precision: Precision, target_sm: tuple[str, ...]
) -> None:
    # A GPU would answer for its engine, whose layers are fused; what is counted here are those of the network.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    source = graph(family, precision)
    engine = tmp_path / "built.engine"
    made = build_engine(source, engine, rtx(*target_sm))
    assert made == read_sidecar(engine)
    assert made.precision == precision
    assert made.targets == target_sm
    assert made.engine_sha256 == file_sha256(engine)
    assert made.graph_sha256 == {source.name: file_sha256(source)}
    assert made.metadata.backbone == family.backbone
    heavy = [
        node for node in onnx.load(source).graph.node if node.op_type in {"Conv", "ConvTranspose", "MatMul", "Gemm"}
    ]
    assert sum(made.layers.heavy.values()) == len(heavy)
    if precision in ("fp32", "fp16"):
        assert made.layers.heavy[precision] > 0.9 * len(heavy)
    assert len(made.layers.wider) == len(heavy) - made.layers.heavy[precision]


def test_the_spread_meets_every_precision_on_every_generation() -> None:
    cases = [(family, precision, target) for family, precision, chosen in spread() for target in chosen]
    assert {family for family, _, _ in cases} == set(FAMILIES)
    assert len(cases) < 3 * len(FAMILIES)
    assert {(precision, target) for _, precision, target in cases} == set(product(PRECISIONS, TARGETS)) - {
        ("bf16", TURING)
    }


def test_one_engine_for_several_generations(tmp_path: Path) -> None:
    one = build_engine(graph(SMALL, "fp16"), tmp_path / "one.engine", rtx("8.6"))
    all_four = build_engine(graph(SMALL, "fp16"), tmp_path / "all.engine", rtx("12.0", "7.5", "8.6", "8.9", "8.6"))
    assert one.targets == ("8.6",)
    assert all_four.targets == TARGETS
    assert all_four.engine_bytes > one.engine_bytes
    portable = build_engine(graph(SMALL, "fp16"), tmp_path / "any.engine", rtx())
    assert portable.targets == ()


def test_without_a_gpu_the_network_is_the_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    made = build_engine(graph(SMALL, "int8"), tmp_path / "x.engine", rtx("8.6"))
    assert made.layers.evidence == "network"
    assert made.gpu is None
    assert set(made.layers.heavy) == {"int8"}
    assert made.layers.layers["CONVOLUTION"] == {"int8": made.layers.heavy["int8"]}


def relabel(source: Path, target: Path, precision: Precision) -> Path:
    """The same graph, saying it were of another precision."""
    model = onnx.load(source)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    metadata = GraphMetadata.from_properties(properties, "x").model_copy(update={"precision": precision})
    onnx.helper.set_model_props(model, metadata.to_properties())
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_asked_for_less_and_got_fp32(tmp_path: Path, precision: Precision) -> None:
    source = relabel(graph(SMALL, "fp32"), tmp_path / "model.onnx", precision)
    with pytest.raises(ProtosegError, match=rf"asked for {precision}, but .* compute in \d+ fp32"):
        build_engine(source, tmp_path / "x.engine", rtx("8.6"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_what_the_parser_refuses_is_named(tmp_path: Path) -> None:
    model = onnx.load(graph(SMALL, "fp32"))
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    node.op_type, node.name = "Convolve", "the_culprit"
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ProtosegError, match=r"cannot read .*\n  the_culprit \(Convolve\): "):
        build_engine(tmp_path / "model.onnx", tmp_path / "x.engine", rtx("8.6"))


def test_what_turing_lacks_is_named(tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if "convnext" in family.backbone)
    with pytest.raises(ProtosegError, match="FP32 GEMM") as caught:
        build_engine(graph(family, "fp32"), tmp_path / "x.engine", rtx("7.5", "8.6"))
    assert "build fp16" in caught.value.hint
    with pytest.raises(UsageError, match=r"bf16 needs .* 8\.0 or later; 7\.5 has none"):
        build_engine(graph(SMALL, "bf16"), tmp_path / "x.engine", rtx("7.5", "8.6"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target_sm", "message"), [("8.4", r"does not build for 8\.4"), ("86", "'86' is not a compute capability")]
)
def test_unknown_targets(tmp_path: Path, target_sm: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_engine(graph(SMALL, "fp32"), tmp_path / "x.engine", rtx(target_sm))


def test_profiles(tmp_path: Path) -> None:
    wrong = Profile(min=(1, 64, 64), opt=(1, 32, 64), max=(1, 64, 64))
    with pytest.raises(UsageError, match="1x64x64,1x32x64,1x64x64: every side of the smallest"):
        build_engine(graph(SMALL, "fp32"), tmp_path / "x.engine", rtx("8.6", profile=wrong))
    bound = next(family for family in FAMILIES if family.size is not None)
    other = Profile(min=(1, 64, 64), opt=(1, 64, 64), max=(2, 64, 64))
    with pytest.raises(UsageError, match="the graph has a fixed input size of"):
        build_engine(graph(bound, "fp32"), tmp_path / "x.engine", rtx("8.6", profile=other))
    narrow = Profile(min=(1, 96, 128), opt=(2, 96, 128), max=(2, 96, 128))
    made = build_engine(graph(SMALL, "fp32"), tmp_path / "x.engine", rtx("8.6", profile=narrow))
    assert made.profile == narrow
    assert made.profile.fixed_size() == (96, 128)


def test_too_little_workspace_says_so(tmp_path: Path) -> None:
    options = EngineOptions("tensorrt-rtx", target_sm=("8.6",), workspace_bytes=2**20)
    with pytest.raises(ProtosegError, match=r"(?i)memory") as caught:
        build_engine(graph(SMALL, "fp32"), tmp_path / "x.engine", options)
    assert "--workspace" in caught.value.hint


def test_options_a_library_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--target-sm: TensorRT builds for the GPU of the machine"):
        EngineOptions("tensorrt", target_sm=("8.6",))
    for option in ("version_compatible", "hardware_compatible"):
        with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}: engines of TensorRT-RTX"):
            EngineOptions("tensorrt-rtx", **{option: True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="TensorRT builds on the GPU it builds for"):
        engine_name("fp16", EngineOptions("tensorrt"))
    assert engine_name("fp16", rtx("8.9", "7.5")) == "fp16-rtx-sm75-sm89"
    assert engine_name("fp16", rtx()) == "fp16-rtx"
