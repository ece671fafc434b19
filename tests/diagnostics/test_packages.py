"""Packages that do not fit together."""

import tomllib
from pathlib import Path

import pytest

from protoseg_deploy.diagnostics.packages import (
    CORE,
    EXTRAS,
    PACKAGE,
    Installed,
    core_findings,
    extra_findings,
    extra_modules,
    installed_packages,
    overlap_findings,
    requirement_findings,
)

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_every_extra_is_looked_for():
    elsewhere = {"dev", "tensorrt", "tensorrt-rtx", "openvino"}  # are asked for more than their version
    assert set(EXTRAS) == set(PROJECT["optional-dependencies"]) - elsewhere


def test_two_packages_of_onnxruntime():
    both = {"onnxruntime": Installed("1.31.1"), "onnxruntime-gpu": Installed("1.31.1"), "numpy": Installed("2")}
    (finding,) = overlap_findings(both)
    assert finding.state == "problem"
    assert "onnxruntime and onnxruntime-gpu install the same files" in finding.fact
    assert finding.fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    del both["onnxruntime"]
    assert overlap_findings(both) == []


def test_this_environment_meets_its_requirements():
    installed = installed_packages()
    assert {"torch", "numpy", "onnxruntime-gpu", "prometheus-client"} <= set(installed)
    assert [finding.state for finding in requirement_findings(installed)] == ["ok"]


@pytest.mark.parametrize(
    ("change", "said", "fix"),
    [
        ({"torch": Installed("2.13.0")}, "needs torch!=2.13.0,>=2.7, and 2.13.0 is installed", "'torch!=2.13.0,>=2.7'"),
        ({"filelock": None}, "torch needs filelock, which is not installed", "'filelock'"),
        ({"six": Installed("1.0")}, "filelock needs six>=1.10, and 1.0 is installed", "'six>=1.10'"),
        ({"pyarrow": Installed("3.0")}, "needs pyarrow>=17, and 3.0 is installed", "'pyarrow>=17'"),
        ({"fsspec": Installed("1")}, "pyarrow needs fsspec>2", "'fsspec>2'"),
    ],
)
def test_requirements_that_are_not_met(change, said, fix):
    sound = {
        PACKAGE: Installed("1", ("torch>=2.7,!=2.13.0", "pyarrow[s3]>=17; extra == 'batch'", "ray; extra == 'ray'")),
        "torch": Installed("2.15.0+cu132", ("filelock", "absent; sys_platform == 'nowhere'", "=odd=")),
        "filelock": Installed("3", ("six>=1.10", "torch>1")),
        "six": Installed("1.17"),
        "pyarrow": Installed("26", ("fsspec>2; extra == 's3'", "absent; extra == 'other'")),
        "fsspec": Installed("3.0rc1"),
    }
    assert requirement_findings(sound)[0].state == "ok"
    changed = {name: found for name, found in (sound | change).items() if found is not None}
    (finding,) = requirement_findings(changed)
    assert finding.state == "problem"
    assert said in finding.fact
    assert finding.fix == f"pip install {fix}"


def test_without_an_installed_package_nothing_is_required():
    (finding,) = requirement_findings({"torch": Installed("1.0")})
    assert finding.state == "ok"
    assert "from its source" in finding.fact


def test_core_modules():
    answers = {name: {"version": "1"} for name in CORE}
    (finding,) = core_findings(answers)
    assert finding.state == "ok"
    assert f"all {len(CORE)} import" in finding.fact
    answers |= {"yaml": {"absent": True}, "torch": {"error": "OSError: libcudart.so.12"}}
    answers["timm"] = {"error": "needs huggingface_hub, which is not installed", "needs": "huggingface_hub"}
    broken = {finding.name: finding for finding in core_findings(answers)}
    assert set(broken) == {"yaml", "torch", "timm"}
    assert all(finding.core and finding.state == "problem" for finding in broken.values())
    assert broken["yaml"].fix.endswith(" pyyaml")
    assert "libcudart.so.12" in broken["torch"].fact
    assert broken["timm"].fix.endswith(" huggingface_hub")


def test_extras_that_are_there_missing_and_broken():
    answers = {name: {"version": "1"} for name in extra_modules()}
    assert {finding.state for finding in extra_findings(answers)} == {"ok"}
    answers |= {"ray": {"absent": True}, "starlette": {"error": "ImportError: odd"}}
    found = {finding.name: finding for finding in extra_findings(answers) if finding.state != "ok"}
    assert {name: finding.state for name, finding in found.items()} == {"ray": "missing", "serve": "problem"}
    assert found["ray"].fix == "pip install 'protoseg-deploy[ray]'"
    assert "starlette: ImportError: odd" in found["serve"].fact
