"""``build`` from the outside: engines in the bundle, what fails, what is left out, exit codes."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.cli import cli
from protoseg_deploy.runtimes.tensorrt import read_sidecar
from tests.runtimes.conftest import runtime_bundles

pytest.importorskip("tensorrt_rtx")


def run(*arguments: object, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained network in fp32, fp16 and bf16."""
    return runtime_bundles(tmp_path_factory) / "bundle"


@pytest.fixture
def bundle(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def test_engines_of_all_precisions(bundle: Path) -> None:
    profile = "1x64x64,2x64x96,2x128x128"
    done = run(
        "build",
        bundle,
        "--engine",
        "tensorrt-rtx",
        "--target-sm",
        "8.9, 8.6",
        "--profile",
        profile,
        "--workspace",
        "2GiB",
    )
    manifest = Bundle.open(bundle).manifest
    assert set(manifest.engines) == {f"{precision}-rtx-sm86-sm89" for precision in ("fp32", "fp16", "bf16")}
    for entry in manifest.engines.values():
        sidecar = read_sidecar(bundle / entry.file)
        assert sidecar.precision == entry.precision
        assert sidecar.targets == ("8.6", "8.9")
        assert str(sidecar.profile) == profile
        assert sidecar.workspace_bytes == 2 * 2**30
        assert (bundle / entry.sidecar).is_file()
        assert manifest.files[entry.file].sha256 == sidecar.engine_sha256
        assert manifest.verified(entry.file) is None
    assert "there is no NVIDIA GPU here" in done.output


def test_turing_has_no_bf16(bundle: Path) -> None:
    arguments = ("build", bundle, "--engine", "tensorrt-rtx", "--target-sm", "7.5", "--profile", "1x64x64")
    document = json.loads(run(*arguments, "--json").stdout)
    assert list(document["engines"]) == ["fp32-rtx-sm75", "fp16-rtx-sm75"]
    assert list(document["skipped"]) == ["bf16"]
    assert document["engines"]["fp16-rtx-sm75"]["layers"]["heavy"].keys() == {"fp16"}
    assert document["verification"] is None
    refused = run(*arguments, "--precision", "bf16", exit_code=1)
    assert "bf16 needs a GPU of compute capability 8.0 or later" in refused.output


def test_one_failure_does_not_lose_the_others(bundle: Path) -> None:
    (bundle / "model.fp16.onnx").write_bytes(b"damaged")
    arguments = ("build", bundle, "--engine", "tensorrt-rtx", "--target-sm", "8.6", "--profile", "1x64x64")
    failed = run(*arguments, exit_code=1)
    assert "fp16: " in failed.output
    assert "is not the file the manifest describes" in failed.output
    assert set(Bundle.open(bundle).manifest.engines) == {"fp32-rtx-sm86", "bf16-rtx-sm86"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--precision", "fp8"), "'fp8' is not one of fp32, fp16, bf16, int8"),
        (("--profile", "1x64"), "is not a shape: give BATCHxHEIGHTxWIDTH"),
        (("--profile", "1x64x64,1x64x64"), "has 2 shapes"),
        (("--workspace", "4"), "is not a size"),
        (("--version-compatible",), "run under the version they were built with only"),
        (("--masks", "m"), "--masks without --images"),
        (("--target-sm", "86"), "'86' is not a compute capability"),
        (("--target-sm", "7.5", "--precision", "bf16,"), "'' is not one of"),
    ],
)
def test_arguments_that_cannot_be(bundle: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = run("build", bundle, "--engine", "tensorrt-rtx", *arguments, exit_code=2)
    assert message in " ".join(refused.output.split())


def test_tensorrt_needs_a_gpu(bundle: Path) -> None:
    """Nothing was built, so nothing has succeeded."""
    refused = run("build", bundle, "--engine", "tensorrt", exit_code=2)
    assert "TensorRT" in refused.output


def test_a_precision_the_bundle_lacks(bundle: Path) -> None:
    refused = run("build", bundle, "--engine", "tensorrt-rtx", "--precision", "int8", exit_code=2)
    assert "has no int8 graph" in refused.output
