"""The edge kit verifies and measures a bundle without the package, and `bench` shows what it brings home."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.benchmarking.rows import read_rows
from protoseg_deploy.cli import cli
from protoseg_deploy.recipe import copy_kit
from tests.kits.expecting import predicted
from tests.kits.test_python_runner import ABSENT

FAST = ("--runs", 5, "--seconds", 0, "--threads", 1)
# A program: the kit, in an interpreter that cannot import what is named first; the kit's own parts of protoseg it can.
BLOCKED = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in names:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)
names, sys.argv = set(sys.argv[1].split(",")), sys.argv[2:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
sys.meta_path.insert(0, Absent())
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edge") / "kit"
    copy_kit("edge", folder)
    return folder


@pytest.fixture
def call(kit: Path):
    def run(*words: object, code: int = 0, **variables: str) -> subprocess.CompletedProcess:
        absent = ",".join(name for name in (*ABSENT, "psutil", "pynvml") if name != "protoseg_deploy")
        command = [sys.executable, "-B", "-I", "-c", BLOCKED, absent, str(kit / "edge.py"), *map(str, words)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=os.sep, timeout=300, env={**os.environ, **variables}
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.mark.parametrize("package", ["PIL", "numpy"])
def test_a_missing_package_is_named(kit: Path, package: str) -> None:
    command = [sys.executable, "-B", "-I", "-c", BLOCKED, package, str(kit / "edge.py"), "bundle"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert done.stderr == f"Error: Python cannot import {package}\npip install numpy pillow\n"


def test_it_is_written_for_python_3_10_and_needs_numpy_alone(kit: Path) -> None:
    own = {path.stem for path in kit.glob("*.py")} | {"protoseg_deploy", "onnxruntime"}
    for file in kit.rglob("*.py"):
        tree = ast.parse(file.read_text(), feature_version=(3, 10))
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        named = {
            (node.module if isinstance(node, ast.ImportFrom) else alias.name).partition(".")[0]
            for node in nodes
            for alias in node.names
        }
        assert named - set(sys.stdlib_module_names) - own <= {"numpy", "PIL"}, file
        for node in nodes:  # what it takes from protoseg is in the kit
            if isinstance(node, ast.ImportFrom) and node.module.startswith("protoseg_deploy"):
                assert (kit / f"{node.module.replace('.', '/')}.py").is_file(), node.module


def test_artefacts_are_verified_and_measured_and_shown_at_home(call, bundles: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "board.json"
    masks = tmp_path / "masks"
    class_maps = predicted(bundles / "any", [bundles / "images"], tmp_path / "home")
    masks.mkdir()
    for name, class_map in class_maps.items():
        Image.fromarray(class_map).save(masks / f"{Path(name).stem}.png")
    said = call(bundles / "any", "--images", bundles / "images", "--masks", masks, "--out", out, *FAST).stdout
    assert "bring it home" in said
    rows = read_rows(out, "--read")
    assert [row.runtime for row in rows] == ["any@fp32", "any@int8"]
    fp32, int8 = rows
    assert (fp32.agreement_percent, fp32.miou_percent, fp32.verified) == (100, pytest.approx(100), True)
    assert int8.agreement_percent < 100 or int8.miou_percent == pytest.approx(100)
    assert fp32.file_bytes > int8.file_bytes > 0
    assert (fp32.height, fp32.width, fp32.threads) == (64, 64, 1)
    document = json.loads(out.read_text())["runtimes"][0]
    assert document["boundaries"]["file"]["latency_p50_ms"] > document["boundaries"]["arrays"]["latency_p50_ms"]
    shown = CliRunner().invoke(cli, ["bench", "--read", str(out), "--markdown"]).output
    assert "any@int8" in shown


def test_what_does_not_segment_as_at_home_fails(call, bundles: Path, tmp_path: Path) -> None:
    reference = tmp_path / "reference"
    reference.mkdir()
    for image in (bundles / "images").iterdir():
        Image.fromarray(np.full((64, 64), 3, np.uint8)).save(reference / image.name)
    arguments = (
        bundles / "any",
        "--images",
        bundles / "images",
        "--reference",
        reference,
        "--precision",
        "fp32",
        *FAST,
    )
    done = call(*arguments, "--out", tmp_path / "a.json", code=1)
    assert "% of the pixels agree, at least" in done.stderr
    assert read_rows(tmp_path / "a.json", "--read")[0].verified is False
    (reference / "0.png").unlink()
    assert f"there is no {reference / '0.png'}" in call(*arguments, "--out", tmp_path / "a.json", code=1).stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no images" in call(bundles / "any", "--images", empty, "--out", tmp_path / "b.json", code=2).stderr
    assert "has no engine 'x'" in call(*arguments, "--engine", "x", "--out", tmp_path / "b.json", code=2).stderr
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize(
    ("value", "manifest", "fault"),
    [
        (255, {}, "no pixel of any mask counts"),
        (30, {}, "holds 30, which is no class: they are 0 to 3"),
        (0, {"value_map": {"a": 1}}, "masks is damaged"),
        (0, {"palette_masks": "colors"}, "the colours of its palette count"),
    ],
)
def test_masks_that_cannot_be_read_as_the_manifest_says_are_refused(
    call, bundles: Path, tmp_path: Path, value: int, manifest: dict, fault: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles / "any", bundle)
    document = json.loads((bundle / "manifest.json").read_text())
    document["masks"] |= manifest
    (bundle / "manifest.json").write_text(json.dumps(document))
    masks = tmp_path / "masks"
    masks.mkdir()
    for image in (bundles / "images").iterdir():
        Image.fromarray(np.full((64, 64), value, np.uint8)).convert("P").save(masks / image.name)
    out = tmp_path / "a.json"
    arguments = (bundle, "--images", bundles / "images", "--masks", masks, "--precision", "fp32", *FAST)
    assert fault in call(*arguments, "--out", out, code=1).stderr
    assert not out.exists()


def test_nothing_that_is_read_is_written_over_and_every_image_has_its_own_reference(
    call, bundles: Path, tmp_path: Path
) -> None:
    images, reference = tmp_path / "images", tmp_path / "reference"
    for folder in ("a", "b"):
        shutil.copytree(bundles / "images", images / folder)
    for out, what in ((bundles / "any" / "manifest.json", "lies in"), (tmp_path, "is a folder")):
        assert what in call(bundles / "any", "--images", images, "--out", out, code=2).stderr
    arguments = (bundles / "any", "--images", images, "--precision", "fp32", *FAST, "--out", tmp_path / "x y.json")
    predicted(bundles / "any", [images], tmp_path / "home")
    assert "'x y.json'" in call(*arguments, "--reference", tmp_path / "home" / "index").stdout
    shutil.copytree(bundles / "images", reference)
    assert "would belong to" in call(*arguments, "--reference", reference, code=1).stderr
    for words in (("--threads", 9999), ("--seconds", "nan"), ("--size", 100_000)):
        call(*arguments, *words, code=2)


def test_limits_of_a_board_make_its_figures_unsteady(call, bundles: Path, tmp_path: Path) -> None:
    """Power of a Jetson and limits of a Raspberry Pi, told by programs that are not there."""
    programs = {
        "vcgencmd": "echo throttled=0x50005",
        "tegrastats": "while echo 'GR3D_FREQ 0%@[305] VDD_IN 4960mW/4965mW'; do sleep 0.02; done",
        "nvpmodel": "echo 'NV Power Mode: MODE_15W'",
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    arguments = (bundles / "any", "--images", bundles / "images", "--precision", "fp32", *FAST, "--strict")
    call(*arguments, "--out", tmp_path / "a.json", code=3, PATH=path)
    document = json.loads((tmp_path / "a.json").read_text())
    assert "the board was limited by throttling, under-voltage" in document["doubts"]
    assert document["machine"]["power_mode"] == "MODE_15W"
    assert document["energy"]["mean_watts"] == pytest.approx(4.96)
    assert document["joules_per_image"] > 0


def test_engines_are_built_where_they_run(kit: Path, bundles: Path, tmp_path: Path) -> None:
    """TensorRT-RTX builds without a GPU; the package reads the sidecar that the kit writes."""
    pytest.importorskip("tensorrt_rtx")
    from protoseg_deploy.runtimes.tensorrt.sidecar import check_engine_file, read_sidecar

    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\nfrom edge_engines import build_engine\nfrom protoseg_runner import Bundle\n"
        "print(build_engine(Bundle(sys.argv[2]), 'fp32', 1, (64, 96), Path(sys.argv[3]), 'tensorrt_rtx')[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(kit), str(bundles / "any"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    engine = Path(done.stdout.split()[-1])
    sidecar = read_sidecar(engine)
    check_engine_file(engine, sidecar)
    assert (sidecar.precision, sidecar.profile.fixed_size()) == ("fp32", (64, 96))
    shutil.rmtree(tmp_path)
