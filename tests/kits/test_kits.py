"""Kits are found and copied, and the pages name options that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import UsageError
from protoseg_deploy.recipe import copy_kit, shipped_folder, shipped_kits
from tests.kits.making import CPP_RUNNER, PYTHON_RUNNER, RUNNER

ROOT = Path(__file__).parents[2]


def test_kits_are_listed_and_copied(tmp_path: Path) -> None:
    listed = CliRunner().invoke(cli, ["kit"]).output
    names = {folder.name for folder in shipped_folder("export").iterdir() if folder.is_dir()}
    assert "runner" in names
    assert {line.split()[0] for line in listed.splitlines()} == set(shipped_kits()) == names
    out = tmp_path / "deep" / "runner"
    result = CliRunner().invoke(cli, ["kit", "runner", "--out", str(out)])
    assert result.exit_code == 0, result.output
    sources = {path.relative_to(RUNNER): path for path in RUNNER.rglob("*") if path.is_file()}
    sources = {name: path for name, path in sources.items() if "__pycache__" not in name.parts}
    copies = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    assert copies.keys() == sources.keys()
    assert all(copies[name].read_bytes() == path.read_bytes() for name, path in sources.items())
    ran = subprocess.run([sys.executable, "-B", out / "protoseg_runner.py", "--help"], capture_output=True)
    assert ran.returncode == 0


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert copy_kit("runner", tmp_path / "empty")
    for place in ("mine", "file"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / "README.md").write_text("mine")
        (tmp_path / "file").write_text("mine")
        with pytest.raises(UsageError, match=r"is not empty|is a file"):
            copy_kit("runner", tmp_path / place)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["README.md"]
    assert (tmp_path / "mine" / "README.md").read_text() == (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nonsense", "--out", "x"], "no kit 'nonsense'"), (["runner"], "--out is missing"), (["--out", "x"], "a kit")],
)
def test_what_cannot_be_is_said(words: list[str], message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["kit", *words])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_pages_name_options_that_there_are() -> None:
    python = subprocess.run([sys.executable, "-B", PYTHON_RUNNER, "--help"], capture_output=True, text=True).stdout
    helps = {"protoseg_runner.py": python, "protoseg_runner ": (CPP_RUNNER / "main.cpp").read_text()}
    pages = [ROOT / "docs" / "kits.md", RUNNER / "README.md", PYTHON_RUNNER]
    lines = [
        line for page in pages for line in page.read_text().splitlines() if " BUNDLE" in line or "bundles/" in line
    ]
    for program, text in helps.items():
        named = {word for line in lines if program in line for word in re.findall(r"--[a-z-]+", line.partition("#")[0])}
        assert {"--out", "--bench"} <= named
        assert not {word for word in named if f"{word} " not in text and f"{word}\n" not in text}
