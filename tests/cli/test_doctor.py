"""``protoseg doctor``, as people and as bug reports see it."""

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy import diagnostics
from protoseg_deploy.cli import cli
from protoseg_deploy.diagnostics import Finding, Section

ROOT = Path(__file__).parents[2]
DOCTOR = [sys.executable, "-m", "protoseg_deploy", "doctor"]
SECTIONS = [
    Section("First", (Finding("one", "ok", "works"), Finding("two", "missing", "is not there", "pip install two"))),
    Section("Second", (Finding("three", "problem", "breaks in ~/" + "x" * 90, "export X=1", details={"y": 2}),)),
]


@pytest.fixture
def found(monkeypatch):
    """Sets what is found."""

    def say(sections):
        monkeypatch.setattr(diagnostics, "examine", lambda: sections)

    say(SECTIONS)
    return say


def test_this_machine_as_json():
    """The real thing: all libraries are loaded."""
    done = subprocess.run([*DOCTOR, "--json"], capture_output=True, cwd=ROOT, env=os.environ | {"HF_TOKEN": "s3cret"})
    assert done.returncode == 0, done.stderr.decode()
    document = json.loads(done.stdout)
    assert document["works"] is True
    checks = {check["name"]: check for check in document["checks"]}
    for name in ("Python", "core libraries", "CPUExecutionProvider", "PyTorch", "images"):
        assert checks[name]["state"] == "ok", checks[name]
    assert {"processor", "cores", "memory", "/dev/shm", "working folder", "TensorRT", "OpenVINO", "serve"} <= set(
        checks
    )
    assert checks["cores"]["details"]["usable_cores"] == len(os.sched_getaffinity(0))
    text = done.stdout.decode()
    private = [str(Path.home()), socket.gethostname(), "s3cret"]
    private += [getpass.getuser()] if getpass.getuser() != "root" else []
    assert [word for word in private if word in text] == []


def test_a_broken_core_library_is_found_without_loading_it(tmp_path):
    """PyTorch that crashes when it is loaded takes down neither the command nor the other answers."""
    (tmp_path / "torch.py").write_text("import os; os.abort()")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run([*DOCTOR, "--json"], capture_output=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1, done.stderr.decode()
    document = json.loads(done.stdout)
    assert document["works"] is False
    checks = {check["name"]: check for check in document["checks"]}
    assert "SIGABRT" in checks["torch"]["fact"]
    assert "SIGABRT" in checks["PyTorch"]["fact"]
    assert checks["CPUExecutionProvider"]["state"] == "ok"
    assert "numpy" not in checks, "what imports is not listed among what does not"


def test_lines_for_people(found):
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert "  ok       one  works" in lines
    assert any(line.endswith("→ pip install two") for line in lines)
    assert lines[-1] == "1 problem, 1 missing. Training and export work on this machine; what is missing is optional."


def test_a_problem_of_the_core_is_exit_code_1(found):
    found([Section("Core", (Finding("torch", "problem", "crashes", "pip install torch", core=True),))])
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert "do not work" in result.stdout
    found([Section("Core", (Finding("torch", "ok", "works", core=True), Finding("x", "problem", "odd")))])
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0


def test_json(found):
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    checks = json.loads(result.stdout)["checks"]
    assert [check["section"] for check in checks] == ["First", "First", "Second"]
    assert checks[2]["details"] == {"y": 2}
    assert checks[0]["fix"] is None


def test_text_from_libraries_cannot_steer_the_terminal(found):
    found([Section("A", (Finding("b", "problem", "red \x1b[31m", "run \x1b]0;x\x07"),))])
    assert "\x1b" not in CliRunner().invoke(cli, ["doctor"]).stdout


def test_issue_templates_ask_for_the_report():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = {path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in folder.glob("*.yml")}
    assert {"bug_report.yml", "feature_request.yml"} <= set(forms)
    for name in ("bug_report.yml", "feature_request.yml"):
        fields = [part for part in forms[name]["body"] if part["type"] != "markdown"]
        identifiers = [field["id"] for field in fields]
        assert len(identifiers) == len(set(identifiers))
        assert {"name", "description", "body"} <= set(forms[name])
    asked = {field["id"]: field for field in forms["bug_report.yml"]["body"] if "id" in field}
    assert "protoseg doctor --json" in asked["doctor"]["attributes"]["description"]
    assert asked["doctor"]["validations"]["required"] is True
