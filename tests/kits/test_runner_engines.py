"""The runner in Python computes engines, and refuses those that cannot run here; the GPU is in main memory."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.runtimes.tensorrt import Profile
from tests.fake_gpu import FOLDER, build_driver, fake_plan
from tests.kits.expecting import assert_same_masks, predicted
from tests.kits.making import PYTHON_RUNNER, copied, pattern
from tests.kits.test_python_runner import ABSENT, BLOCKED
from tests.made_once import made_once, session_folder
from tests.serving.triton.engine import add_engine

NAME = "fp32-sm86"
PROFILE = Profile(min=(1, 16, 16), opt=(1, 30, 44), max=(4, 80, 96))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the fake driver."""
    return made_once(session_folder(tmp_path_factory) / "fake-driver", build_driver)


@pytest.fixture
def call(driver: Path, tmp_path: Path):
    """The runner as a program of its own, with the fake driver and library; both are left out on request."""

    def run(
        *words: object, library: str = "tensorrt", gpu: bool = True, **settings: str
    ) -> subprocess.CompletedProcess:
        libraries = tmp_path / f"libraries-{library}"
        libraries.mkdir(exist_ok=True)
        if library:
            shutil.copy(FOLDER / "tensorrt.py", libraries / f"{library}.py")
        absent = (*ABSENT, *({"tensorrt", "tensorrt_rtx"} - {library}))
        program = f"import sys; sys.path.insert(0, {str(libraries)!r})\n{BLOCKED}"
        environment = {key: value for key, value in os.environ.items() if key != "LD_LIBRARY_PATH"}
        environment |= {"LD_LIBRARY_PATH": str(driver)} if gpu else {}
        command = [sys.executable, "-B", "-I", "-c", program, ",".join(absent), *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=os.sep, timeout=300, env={**environment, **settings}
        )

    return run


@pytest.fixture
def done(call):
    def run(*words: object, **options: str) -> dict:
        result = call(*words, "--json", **options)
        assert result.returncode == 0, result.stderr
        assert "Exception" not in result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture
def refused(call):
    def run(*words: object, code: int = 1, **options: str) -> str:
        result = call(*words, **options)
        assert result.returncode == code, result.stderr
        assert "Error: " in result.stderr
        assert "Traceback" not in result.stderr
        assert result.stdout == ""
        return result.stderr

    return run


@pytest.fixture
def bundle(bundles: Path, tmp_path: Path) -> Path:
    """With an engine that computes its fp32 graph."""
    return with_engine(bundles, tmp_path / "bundle")


def with_engine(bundles: Path, folder: Path, name: str = NAME, **changes: object) -> Path:
    shutil.copytree(bundles / "any", folder)
    add_engine(folder, name, fake_plan(folder / "model.onnx"), **{"profile": PROFILE, **changes})
    return folder


def judge(folder: Path, status: str) -> None:
    bundle = Bundle.open(folder)
    file = f"engines/{NAME}.engine"
    stages = (
        StageVerdict(stage="onnx fp32", artefact="model.onnx", against="pytorch", status="passed"),
        StageVerdict(
            stage="engine",
            artefact=file,
            artefact_sha256=bundle.manifest.digest_of(file),
            against="onnx fp32",
            status=status,
        ),
    )
    bundle.record(
        Verification(
            passed=status != "failed", images=1, masks=0, fitted_images=0, images_sha256="0" * 64,
            miou_pytorch_percent=None, stages=stages,
        )
    )  # fmt: skip


def test_class_maps_are_those_of_the_graph(bundle: Path, done, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, size in enumerate([(30, 44), (30, 44), (80, 96), (17, 23), (30, 44)]):  # memory grows and stays
        Image.fromarray(pattern(*size, number)).save(images / f"{number}.png")
    expected = predicted(bundle, [images], tmp_path / "package")
    assert all(len(np.unique(class_map)) > 1 for class_map in expected.values())
    document = done(bundle, images, "--engine", NAME, "--out", tmp_path / "masks")
    assert_same_masks(document, expected)
    manifest = Bundle.open(bundle).manifest
    assert document["sha256"] == manifest.files[f"engines/{NAME}.engine"].sha256
    assert (document["engine"], document["graph"]) == (f"engines/{NAME}.engine", None)
    assert (document["precision"], document["verified"]) == ("fp32", None)
    assert document["provider"] == "TensorRT 10.13.3.9, Fake GPU"
    with Image.open(tmp_path / "masks/0.png") as mask:
        assert mask.text["protoseg-runner"] == document["sha256"]
    bench = done(bundle, "--engine", NAME, "--bench", 2)["bench"]
    assert bench["size"] == [30, 44], "the size it is fastest at"


def test_tiles_are_those_of_the_package(bundle: Path, done, tmp_path: Path) -> None:
    Image.fromarray(pattern(90, 121)).save(tmp_path / "x.png")
    expected = predicted(bundle, [tmp_path / "x.png"], tmp_path / "package", tile=(40, 40), overlap=9, batch=3)
    words = [tmp_path / "x.png", "--engine", NAME, "--out", tmp_path / "masks"]
    document = done(bundle, *words, "--tile", 40, "--overlap", 9, "--batch", 3)
    assert_same_masks(document, expected)


def test_an_engine_of_one_size_gets_tiles(bundles: Path, done, tmp_path: Path) -> None:
    fixed = with_engine(bundles, tmp_path / "fixed", profile=Profile(min=(1, 40, 56), opt=(1, 40, 56), max=(1, 40, 56)))
    Image.fromarray(pattern(90, 121)).save(tmp_path / "x.png")
    expected = predicted(bundles / "fixed", [tmp_path / "x.png"], tmp_path / "package")
    assert_same_masks(done(fixed, tmp_path / "x.png", "--engine", NAME, "--out", tmp_path / "masks"), expected)


def test_an_engine_file_alone_and_one_that_a_bundle_lists(bundle: Path, call, done, tmp_path: Path) -> None:
    listed = bundle / "engines" / f"{NAME}.engine"
    alone = tmp_path / "elsewhere" / listed.name
    alone.parent.mkdir()
    for path in (listed, listed.with_suffix(".json")):
        shutil.copy(path, alone.parent)
    Image.fromarray(pattern(30, 44)).save(tmp_path / "x.png")
    expected = predicted(bundle, [tmp_path / "x.png"], tmp_path / "package")
    judge(bundle, "passed")
    for engine, verified in ((listed, True), (alone, None)):
        document = done(engine, tmp_path / "x.png", "--out", tmp_path / f"masks-{verified}")
        assert_same_masks(document, expected)
        assert document["verified"] is verified
    assert "is not verified" in call(alone).stderr


@pytest.mark.parametrize("version_compatible", [False, True])
def test_tensorrt_rtx(version_compatible: bool, bundles: Path, done, tmp_path: Path) -> None:
    changes = {"engine": "tensorrt-rtx", "library_version": "1.2.0.54", "targets": ()}
    bundle = with_engine(bundles, tmp_path / "rtx", version_compatible=version_compatible, **changes)
    np.save(tmp_path / "x.npy", pattern(30, 44))
    Image.fromarray(pattern(30, 44)).save(tmp_path / "x.png")
    expected = predicted(bundle, [tmp_path / "x.png"], tmp_path / "package")
    words = [tmp_path / "x.npy", "--engine", NAME, "--out", tmp_path / "masks"]
    document = done(bundle, *words, library="tensorrt_rtx", FAKE_VERSION="1.2.0.54")
    assert_same_masks(document, {"x.npy": expected["x.png"]})
    assert document["provider"].startswith("TensorRT-RTX 1.2.0.54")


def test_what_does_not_fit_this_machine(bundle: Path, refused) -> None:
    words = [bundle, "--engine", NAME]
    assert "runs on an NVIDIA GPU, and there is none here: CUDA: cuInit: no CUDA" in refused(*words, FAKE_GPUS="0")
    said = refused(*words, library="")
    assert "TensorRT is not installed" in said
    assert "pip install tensorrt==10.13.3.9" in said
    assert "built with TensorRT 10.13.3.9; installed is 10.14.0.1" in refused(*words, FAKE_VERSION="10.14.0.1")
    assert "TensorRT 9.3.0 is too old" in refused(*words, FAKE_VERSION="9.3.0")
    said = refused(*words, FAKE_CAPABILITY="90")
    assert "built for GPUs of compute capability 8.6; this is a Fake GPU (9.0)" in said
    assert "cannot load" in (said := refused(*words, FAKE_ERROR="load"))
    assert "magic tag failed" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_driver(bundle: Path, refused) -> None:
    assert "there is none here: libcuda.so.1" in refused(bundle, "--engine", NAME, gpu=False)


@pytest.mark.parametrize(
    ("changes", "settings", "fits"),
    [
        ({"version_compatible": True}, {"FAKE_VERSION": "10.14.0.1"}, True),
        ({"version_compatible": True}, {"FAKE_VERSION": "10.9.0.34"}, False),
        ({"version_compatible": True}, {"FAKE_VERSION": "11.0.0.1"}, False),
        ({}, {"FAKE_VERSION": "10.13.3.9.post1"}, True),
        ({"hardware_compatible": True}, {"FAKE_CAPABILITY": "90"}, True),
        ({"hardware_compatible": True}, {"FAKE_CAPABILITY": "75"}, False),
        ({"targets": ("7.5", "9.0")}, {"FAKE_CAPABILITY": "75"}, True),
    ],
)
def test_versions_and_gpus(changes, settings, fits, bundles, call, tmp_path) -> None:
    bundle = with_engine(bundles, tmp_path / "bundle", **changes)
    assert call(bundle, "--engine", NAME, **settings).returncode == (0 if fits else 1)


def test_failures_while_running(bundle: Path, call, tmp_path: Path) -> None:
    Image.fromarray(pattern(30, 44)).save(tmp_path / "x.png")
    words = [bundle, tmp_path / "x.png", "--engine", NAME, "--out", tmp_path / "masks"]
    for settings, reason in (
        ({"FAKE_ERROR": "run"}, "failed while running: an illegal memory access"),
        ({"FAKE_ERROR": "shape"}, "does not take [1, 30, 44, 3]"),
        ({"FAKE_MEMORY": "1000"}, "CUDA: cuMemAlloc_v2: out of memory (2)"),
    ):
        result = call(*words, **settings)
        assert (result.returncode, reason in result.stderr) == (1, True), result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "masks").exists()


def test_sizes_outside_the_profile(bundle: Path, call, refused, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    Image.fromarray(pattern(81, 44)).save(images / "high.png")
    Image.fromarray(pattern(30, 44)).save(images / "good.png")
    words = [bundle, images, "--engine", NAME, "--out", tmp_path / "masks"]
    result = call(*words)
    assert result.returncode == 1
    assert f"engines/{NAME}.engine takes a height of 16 to 80; got 81" in result.stderr
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["good.png"]
    assert call(*words, "--tile", "64").returncode == 0
    assert "takes batches of 1 to 4; --batch is 5" in refused(*words, "--tile", 64, "--batch", 5, code=2)


def test_verdicts_are_respected(bundle: Path, call, done, refused) -> None:
    words = [bundle, "--engine", NAME]
    assert "is not verified" in call(*words).stderr
    judge(bundle, "passed")
    assert done(*words)["verified"] is True
    assert call(*words).stderr == ""
    judge(bundle, "failed")
    assert "failed verification: refused" in refused(*words)
    assert done(*words, "--allow-unverified")["verified"] is False


def test_changed_files_are_refused(bundle: Path, refused, tmp_path: Path) -> None:
    def spoilt(name: str, file: str, old: bytes, new: bytes) -> Path:
        copy = copied(bundle, tmp_path / name)
        path = copy / "engines" / file
        content = path.read_bytes()
        assert old in content
        path.write_bytes(content.replace(old, new, 1))
        return copy

    other = spoilt("engine", f"{NAME}.engine", b"fake plan", b"fake plam")
    for words in ([other, "--engine", NAME], [other / "engines" / f"{NAME}.engine"]):
        assert f"{NAME}.engine is not the file the manifest describes: its SHA-256 differs" in refused(*words)
    other = spoilt("sidecar", f"{NAME}.json", b'"8.6"', b'"9.0"')
    assert f"{NAME}.json is not the file the manifest describes" in refused(other, "--engine", NAME)

    alone = tmp_path / "alone" / f"{NAME}.engine"
    shutil.copytree(bundle / "engines", alone.parent)
    content = alone.read_bytes()
    alone.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert f"is not the engine that {NAME}.json describes: its checksum differs" in refused(alone)
    alone.write_bytes(content)
    sidecar = alone.with_suffix(".json")
    tree = json.loads(sidecar.read_text())
    for key, value in (
        ("format", 2), ("engine", "other"), ("precision", "fp16"), ("profile", {"min": [1, 1, 1]}), ("metadata", []),
        ("profile", {"min": [2, 1, 1], "opt": [1, 1, 1], "max": [1, 1, 1]}), ("engine_bytes", None),
    ):  # fmt: skip
        sidecar.write_text(json.dumps({**tree, key: value}))
        assert f"{NAME}.json is damaged or of another version" in refused(alone)
    sidecar.unlink()
    assert f"cannot be used without {NAME}.json beside it" in refused(alone)


def test_an_engine_that_is_not_what_the_manifest_says(bundle: Path, refused, tmp_path: Path) -> None:
    def rename(manifest: dict) -> None:
        manifest["classes"]["names"][0] = "heaven"

    assert "is not the engine that the manifest describes" in refused(
        copied(bundle, tmp_path / "other", rename), "--engine", NAME
    )


@pytest.mark.parametrize("graph", ["float.onnx", "int32.onnx"])
def test_an_engine_of_other_inputs_and_outputs(graph: str, bundles: Path, refused, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    bundle = copied(bundles / "any", tmp_path / "bundle")
    kind = TensorProto.FLOAT if graph == "float.onnx" else TensorProto.INT32
    ports = [helper.make_tensor_value_info(name, kind, ["n", "h", "w", 3]) for name in ("images", "class_map")]
    node = helper.make_node("Identity", ["images"], ["class_map"])
    model = helper.make_model(helper.make_graph([node], "x", ports[:1], ports[1:]), ir_version=10)
    model.opset_import[0].version = 18
    onnx.save(model, tmp_path / graph)
    add_engine(bundle, NAME, fake_plan(tmp_path / graph), profile=PROFILE)
    assert "takes {'images'" in refused(bundle, "--engine", NAME)


def test_command_lines_that_cannot_be(bundle: Path, refused) -> None:
    assert f"has no engine 'other'; it has {NAME}" in refused(bundle, "--engine", "other", code=2)
    assert "engines have none" in refused(bundle, "--engine", NAME, "--provider", "cuda", code=2)
    assert "is fp32, not fp16" in refused(bundle, "--engine", NAME, "--precision", "fp16", code=2)


def test_as_a_module_in_threads(bundle: Path, driver: Path, tmp_path: Path) -> None:
    """Every thread uses the GPU; memory is given back with the segmenter."""
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    shutil.copy(FOLDER / "tensorrt.py", libraries)
    program = (
        f"import sys; sys.path[:0] = [{str(PYTHON_RUNNER.parent)!r}, {str(libraries)!r}]\n"
        "import ctypes, gc\nimport numpy as np\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "from protoseg_runner import Segmenter\n"
        "images = [np.random.default_rng(n).integers(0, 256, (1 + n % 2, 30, 44, 3), np.uint8) for n in range(8)]\n"
        f"plain = Segmenter({str(bundle)!r}, threads=1)\n"
        f"segmenter = Segmenter({str(bundle)!r}, engine={NAME!r})\n"
        "with ThreadPoolExecutor(4) as threads:\n"
        "    found = list(threads.map(segmenter.predict, images))\n"
        "assert all((one == plain.predict(i)).all() for one, i in zip(found, images))\n"
        "live = ctypes.CDLL('libcuda.so.1').fakeLive\nassert live() == 2, live()\n"
        "del segmenter\ngc.collect()\nassert live() == 0, live()\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    result = subprocess.run(
        [sys.executable, "-B", "-c", program], capture_output=True, text=True, env=environment, cwd=os.sep
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_fake_library_has_only_what_the_real_one_has() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    import importlib.util

    spec = importlib.util.spec_from_file_location("fake_tensorrt", FOLDER / "tensorrt.py")
    fake = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fake)
    own = {"session", "log", "config", "ports"}
    for name in ("ILogger", "Runtime", "ICudaEngine", "IExecutionContext", "IRuntimeConfig", "TensorIOMode"):
        words = {word for word in vars(getattr(fake, name)) if not word.startswith("_")} - own
        assert words <= set(dir(getattr(real, name))), name
    for name in ("DataType", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"):
        assert {one.name for one in getattr(fake, name)} <= set(dir(getattr(real, name)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_real_engine_where_there_is_no_gpu(bundles: Path, refused, tmp_path: Path) -> None:
    """Its sidecar is read as `protoseg build` writes it."""
    pytest.importorskip("tensorrt_rtx")
    from protoseg_deploy.exporting.engines.building import build_into_bundle
    from protoseg_deploy.exporting.engines.options import EngineOptions

    bundle = copied(bundles / "any", tmp_path / "bundle")
    profile = Profile(min=(1, 64, 64), opt=(1, 64, 64), max=(1, 64, 64))
    built = build_into_bundle(Bundle.open(bundle), "fp32", EngineOptions("tensorrt-rtx", profile=profile))
    said = refused(bundle, "--engine", built.name, library="", gpu=False)
    assert f"{built.file} runs on an NVIDIA GPU, and there is none here" in said
