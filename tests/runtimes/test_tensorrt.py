"""What is refused before an engine is loaded, and how launches are recorded; none of it needs a GPU."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.manifest import InputSpec, Manifest, Masks, NetworkInfo, Provenance
from protoseg_deploy.bundles.metadata import Classes, GraphMetadata
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes import open_runtime
from protoseg_deploy.runtimes.tensorrt import EngineSidecar, LayerTable, Profile, load_library, read_sidecar
from protoseg_deploy.runtimes.tensorrt.launching import Binding, Launcher
from protoseg_deploy.runtimes.tensorrt.loading import output_types
from protoseg_deploy.runtimes.tensorrt.memory import GrowingBuffer, usable_in_place
from protoseg_deploy.runtimes.tensorrt.runtime import bundle_of
from protoseg_deploy.runtimes.tensorrt.sidecar import (
    check_engine_file,
    check_gpu,
    check_shape,
    check_version,
    write_sidecar,
)

METADATA = GraphMetadata(
    program="test",
    classes=Classes(names=("a", "b"), colors=((0, 0, 0), (255, 0, 0))),
    ignore_index=255,
    mean=(1.0, 2.0, 3.0),
    std=(4.0, 5.0, 6.0),
    input_scale=1.0,
    fixed_size=None,
    precision="fp16",
    parameters=1,
    backbone="x",
    decoder="y",
    provenance={},
    network_sha256="0",
)
PROFILE = Profile(min=(1, 64, 64), opt=(1, 512, 512), max=(4, 1024, 2048))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "fp16-sm86.engine"
    path.write_bytes(b"an engine")
    write_sidecar(path, sidecar(path))
    return path


def sidecar(path: Path, **changes: object) -> EngineSidecar:
    content = {
        "engine": "tensorrt",
        "library_version": "10.13.3.9",
        "precision": "fp16",
        "graph": "model.fp16.onnx",
        "graph_sha256": {"model.fp16.onnx": "0"},
        "engine_sha256": file_sha256(path),
        "engine_bytes": path.stat().st_size,
        "targets": ("8.6",),
        "gpu": "NVIDIA A10",
        "driver": "580.1",
        "profile": PROFILE,
        "workspace_bytes": None,
        "version_compatible": False,
        "hardware_compatible": False,
        "layers": LayerTable(evidence="engine", heavy={"fp16": 3}, layers={}, wider=()),
        "build_seconds": 1.0,
        "metadata": METADATA,
    }
    return EngineSidecar.model_validate({**content, **changes})


def test_a_sidecar_comes_back_as_it_was_written(engine: Path) -> None:
    assert read_sidecar(engine) == sidecar(engine)
    check_engine_file(engine, read_sidecar(engine))


def test_an_engine_without_a_usable_sidecar(engine: Path) -> None:
    path = engine.with_suffix(".json")
    path.write_text(path.read_text().replace('"heavy"', '"havy"'))
    with pytest.raises(ProtosegError, match=r"fp16-sm86\.json is damaged or of another version: layers\.heavy"):
        read_sidecar(engine)
    path.unlink()
    with pytest.raises(ProtosegError, match=r"cannot be used without fp16-sm86\.json beside it"):
        read_sidecar(engine)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "fp32"}, "precision is fp32, and that of the graph fp16"),
        ({"profile": PROFILE.model_copy(update={"max": (1, 32, 32)})}, "not in the order smallest, best, largest"),
        ({"profile": {"min": [0, 1, 1], "opt": [1, 1, 1], "max": [1, 1, 1]}}, "profile.min.0"),
        ({"engine_bytes": -1}, "engine_bytes"),
        ({"build_seconds": float("nan")}, "build_seconds"),
        ({"metadata": {**METADATA.model_dump(), "std": (0.0, 1.0, 1.0)}}, "metadata.std.0"),
    ],
)
def test_a_sidecar_that_contradicts_itself_is_refused(engine: Path, changes: dict[str, object], words: str) -> None:
    tree = {**sidecar(engine).model_dump(), **changes}
    engine.with_suffix(".json").write_text(json.dumps(tree, default=lambda value: value.model_dump()))
    with pytest.raises(ProtosegError) as caught:
        read_sidecar(engine)
    assert words in caught.value.message
    for content in (b"", b"[" * 100_000, b"\xff", b"null"):
        engine.with_suffix(".json").write_bytes(content)
        with pytest.raises(ProtosegError, match=r"fp16-sm86\.json is damaged"):
            read_sidecar(engine)


class _Engine:
    """Inputs and outputs of an engine, as the libraries tell them: (name, type, shape)."""

    def __init__(self, inputs: list[tuple[str, str, tuple[int, ...]]], outputs: list[tuple[str, str, tuple[int, ...]]]):
        self.ports = {port[0]: port for port in (*inputs, *outputs)}
        self.inputs = {port[0] for port in inputs}
        self.num_io_tensors = len(self.ports)

    def get_tensor_name(self, number: int) -> str:
        return list(self.ports)[number]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.inputs else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return self.ports[name][1]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.ports[name][2]


LIBRARY = SimpleNamespace(
    DataType=SimpleNamespace(UINT8="u8", INT32="i32", FLOAT="f32"), TensorIOMode=SimpleNamespace(OUTPUT="out")
)
IMAGES, CLASS_MAP = ("images", "u8", (-1, -1, -1, 3)), ("class_map", "u8", (-1, -1, -1))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        ([IMAGES], [CLASS_MAP], None),
        ([IMAGES], [CLASS_MAP, ("logits", "f32", (-1, 2, -1, -1)), ("confidence", "u8", (-1, -1, -1))], None),
        ([("images", "u8", (1, 64, 64, 3))], [("class_map", "u8", (1, 64, 64))], None),
        ([("images", "f32", (-1, -1, -1, 3))], [CLASS_MAP], "found images: float32"),
        ([("images", "u8", (-1, 3, -1, -1))], [CLASS_MAP], "found images: uint8"),
        ([("pictures", "u8", (-1, -1, -1, 3))], [CLASS_MAP], "found pictures"),
        ([IMAGES, ("extra", "f32", (1,))], [CLASS_MAP], "extra"),
        ([IMAGES], [("class_map", "i64", (-1, -1, -1))], "found class_map: i64"),
        ([IMAGES], [("class_map", "i32", (-1, -1, -1))], "found class_map: int32"),
        ([IMAGES], [("classes", "u8", (-1, -1, -1))], "found classes"),
        (
            [IMAGES],
            [CLASS_MAP, ("logits", "f32", (-1, 7, -1, -1))],
            "expected logits: float32 [batch, 2, height, width]",
        ),
    ],
)
def test_an_engine_keeps_the_contract(inputs: list, outputs: list, words: str | None) -> None:
    if words is None:
        types = output_types(LIBRARY, _Engine(inputs, outputs), Path("a.engine"), METADATA)
        assert types["class_map"] == torch.uint8
        return
    with pytest.raises(ProtosegError) as caught:
        output_types(LIBRARY, _Engine(inputs, outputs), Path("a.engine"), METADATA)
    assert "a.engine does not have the inputs and outputs of its metadata" in caught.value.message
    assert words in caught.value.message


def test_a_changed_engine_is_refused(engine: Path) -> None:
    engine.write_bytes(b"another..")
    with pytest.raises(ProtosegError, match="its checksum differs"):
        open_runtime(engine)


def manifest_of(bundle: Path, *files: str) -> Manifest:
    """Of a bundle whose one engine passed its verification."""
    verdict = StageVerdict(stage="engine fp16", artefact="engines/fp16-sm86.engine", against="pytorch", status="passed")
    return Manifest(
        network=NetworkInfo(backbone="x", decoder="y", parameters=1),
        classes=METADATA.classes,
        masks=Masks(ignore_index=255),
        input=InputSpec(shape=(), fixed_size=None, input_scale=1.0, mean=METADATA.mean, std=METADATA.std),
        outputs=(),
        graphs={},
        provenance=Provenance(run="", weights="", recipe_sha256=None, training={}, versions={}),
        files={name: file_entry(bundle / name) for name in files},
        verification=Verification(
            passed=True,
            images=1,
            masks=0,
            fitted_images=0,
            images_sha256="",
            miou_pytorch_percent=None,
            stages=(verdict,),
        ),
    )


@pytest.mark.parametrize(
    ("content", "changes", "replaced"),
    [(b"another engine", {}, r"fp16-sm86\.engine"), (b"an engine", {"targets": ("8.9",)}, r"fp16-sm86\.json")],
)
def test_a_replaced_engine_does_not_keep_the_verdict(
    tmp_path: Path, content: bytes, changes: dict[str, object], replaced: str
) -> None:
    """Engine and sidecar fit each other, but are not the ones of the bundle."""
    path = tmp_path / "engines" / "fp16-sm86.engine"
    path.parent.mkdir()
    path.write_bytes(b"an engine")
    made = sidecar(path)
    write_sidecar(path, made)
    assert bundle_of(path, made) is None
    Bundle.create(tmp_path, manifest_of(tmp_path, "engines/fp16-sm86.engine", "engines/fp16-sm86.json"))
    assert bundle_of(path, made).verified(f"engines/{path.name}") is True
    assert bundle_of(path.with_stem("fp32"), made) is None  # lies there without being listed
    other = made.model_copy(update={"metadata": METADATA.model_copy(update={"ignore_index": 7})})
    with pytest.raises(ProtosegError, match="is not the artefact the manifest describes: ignore index 7 instead"):
        bundle_of(path, other)
    path.write_bytes(content)
    write_sidecar(path, sidecar(path, **changes))
    with pytest.raises(ProtosegError, match=f"{replaced} is not the file the manifest describes"):
        open_runtime(path)


def test_an_engine_where_there_is_no_gpu(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="runs on an NVIDIA GPU, and PyTorch finds none here"):
        open_runtime(engine)
    with pytest.raises(UsageError, match="it cannot be combined with --device cpu"):
        open_runtime(engine, device="cpu")


@pytest.mark.parametrize("kind", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_library_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind.replace("-", "_"), None)
    with pytest.raises(UsageError, match="is not installed") as caught:
        load_library(kind)
    assert f"protoseg-deploy[{kind}]" in caught.value.hint


@pytest.mark.parametrize(
    ("built", "compatible", "installed", "fits"),
    [
        ("10.13.3.9", False, "10.13.3.9", True),
        ("10.13.3.9", False, "10.13.3.9.post1", True),
        ("10.13.3.9", False, "10.13.3.10", False),
        ("10.13.3.9", False, "10.14.0.1", False),
        ("10.13.3.9", True, "10.14.0.1", True),
        ("10.13.3.9", True, "10.9.0.34", False),
        ("10.13.3.9", True, "11.0.0.1", False),
    ],
)
def test_versions(engine: Path, built: str, compatible: bool, installed: str, fits: bool) -> None:
    made = sidecar(engine, library_version=built, version_compatible=compatible)
    if fits:
        check_version(engine, made, installed)
    else:
        with pytest.raises(UsageError, match=rf"built with TensorRT {built}; installed is TensorRT {installed}\n"):
            check_version(engine, made, installed)


@pytest.mark.parametrize(
    ("changes", "capability", "fits"),
    [
        ({}, (8, 6), True),
        ({}, (8, 9), False),
        ({"hardware_compatible": True}, (9, 0), True),
        ({"hardware_compatible": True}, (7, 5), False),
        ({"engine": "tensorrt-rtx", "targets": ("7.5", "12.0")}, (12, 0), True),
        ({"engine": "tensorrt-rtx", "targets": ("7.5", "12.0")}, (8, 0), False),
        ({"engine": "tensorrt-rtx", "targets": ()}, (8, 9), True),
        ({"engine": "tensorrt-rtx", "targets": ()}, (7, 5), False),
    ],
)
def test_gpus(engine: Path, changes: dict[str, object], capability: tuple[int, int], fits: bool) -> None:
    made = sidecar(engine, **changes)
    if fits:
        check_gpu(engine, made, capability, "Some GPU")
    else:
        here = f"{capability[0]}.{capability[1]}"
        with pytest.raises(UsageError, match=rf"built for GPUs of compute capability .*this is a Some GPU \({here}\)"):
            check_gpu(engine, made, capability, "Some GPU")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 512, 512), "a batch of 1 to 4; got 5"),
        ((1, 63, 512), "a height of 64 to 1024; got 63"),
        ((1, 512, 2049), "a width of 64 to 2048; got 2049"),
    ],
)
def test_shapes_outside_the_profile(engine: Path, shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_shape(engine, PROFILE, shape)
    for inside in (PROFILE.min, PROFILE.opt, PROFILE.max):
        check_shape(engine, PROFILE, inside)


class FakeContext:
    """Notes what an execution context is told; `shape` is what it is set to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, _name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def get_tensor_shape(self, _name: str) -> tuple[int, ...]:
        return self.shape[:3]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        self.calls.append("run")
        return self.shape != (9, 9, 9, 3)


class FakeLog:
    errors = ("out of luck",)


def launcher(context: FakeContext, record: bool = True, recordable: bool = True) -> Launcher:
    class Recorded:
        def replay(self) -> None:
            context.calls.append("replay")

    def start(enqueue: Callable[[], None]) -> Recorded:
        enqueue()
        context.calls[-1] = "record"
        if not recordable:
            raise RuntimeError("not while a stream is recorded")
        return Recorded()

    return Launcher(context, FakeLog(), "x.engine", "images", 7, start if record else None)


def binding(*shape: int) -> Binding:
    return Binding(torch.zeros(*shape, 3, dtype=torch.uint8), {"class_map": torch.zeros(shape, dtype=torch.uint8)})


def test_a_repeated_launch_is_recorded_once_and_replayed() -> None:
    context = FakeContext()
    launches, same = launcher(context), binding(1, 4, 4)
    for _ in range(4):
        launches.launch(same)
    assert context.calls == ["run", "record", "replay", "replay", "replay"]
    assert context.addresses == {
        "images": same.images.data_ptr(),
        "class_map": same.outputs["class_map"].data_ptr(),
    }


def test_a_recording_is_dropped_when_anything_else_runs() -> None:
    """Replaying it would read and write what another shape has claimed since."""
    context = FakeContext()
    launches, first, second = launcher(context), binding(1, 4, 4), binding(2, 8, 8)
    for one in (first, first, second, first, first):
        launches.launch(one)
    assert context.calls == ["run", "record", "replay", "run", "run", "record", "replay"]
    assert context.shape == (1, 4, 4, 3)
    launches.output_shapes((3, 5, 5, 3), {"class_map": None})
    context.calls.clear()
    launches.launch(first)
    assert context.calls == ["run"]
    assert context.shape == (1, 4, 4, 3)


def test_what_cannot_be_recorded_is_launched() -> None:
    context = FakeContext()
    launches, same = launcher(context, recordable=False), binding(1, 4, 4)
    for _ in range(3):
        launches.launch(same)
    assert context.calls == ["run", "record", "run", "run"]
    plain = FakeContext()
    launches = launcher(plain, record=False)
    for _ in range(3):
        launches.launch(same)
    assert plain.calls == ["run"] * 3


def test_a_failed_launch_says_why() -> None:
    with pytest.raises(ProtosegError, match=r"x\.engine failed while running: out of luck"):
        launcher(FakeContext()).launch(binding(9, 9, 9))


def test_memory_grows_and_is_used_again() -> None:
    buffer = GrowingBuffer(torch.uint8, torch.device("cpu"))
    large = buffer.view((2, 6, 6, 3))
    assert large.shape == (2, 6, 6, 3)
    assert large.is_contiguous()
    assert buffer.view((1, 4, 4, 3)).data_ptr() == large.data_ptr()
    assert buffer.view((2, 7, 6, 3)).shape == (2, 7, 6, 3)


def test_only_contiguous_aligned_tensors_are_read_in_place() -> None:
    memory = torch.zeros(4096, dtype=torch.uint8)
    start = -memory.data_ptr() % 256
    aligned = memory[start : start + 768].view(1, 16, 16, 3)
    assert usable_in_place(aligned)
    assert not usable_in_place(memory[start + 3 : start + 771].view(1, 16, 16, 3))
    assert not usable_in_place(aligned.permute(0, 2, 1, 3))
