"""The commands and the program of docs/serving.md do what the page says, against servers that are started for them."""

import contextlib
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.serving.artefact import ArtefactSpec
from tests.serving.embedded import embedded_server, server_thread
from tests.test_docs import blocks

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture
def project(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader has: bundles, validation images with masks, photographs."""
    for name in ("mine", "other"):
        shutil.copytree(bundle, tmp_path / "bundles" / name)
    shutil.copytree(bundle.parent / "images", tmp_path / "val/images")
    shutil.copytree(bundle.parent / "masks", tmp_path / "val/masks")
    shutil.copytree(bundle.parent / "images", tmp_path / "photos")
    shutil.copy(next((bundle.parent / "images").iterdir()), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def places(project: Path) -> Iterator[dict[str, str]]:
    """Where the page says that the server listens, and where it does."""
    with server_thread(ArtefactSpec(project / "bundles/mine", "mine")) as (http_place, grpc_place):
        yield {"127.0.0.1:8000": http_place, "127.0.0.1:8001": grpc_place}


def moved(text: str, places: dict[str, str]) -> str:
    return re.sub("|".join(map(re.escape, places)), lambda found: places[found[0]], text)


def test_clients(places: dict[str, str]) -> None:
    commands = [command for block in blocks(PAGE) for command in block.commands() if "127.0.0.1:80" in command]
    assert {command.split()[0] for command in commands} >= {"verify", "evaluate", "predict", "bench"}
    for command in commands:
        result = CliRunner().invoke(cli, shlex.split(moved(command, places)))
        assert result.exit_code == 0, f"protoseg {command}\n{result.output}"
    programs = [block.text for block in blocks(PAGE) if block.language == "python"]
    assert programs
    for text in programs:
        with contextlib.redirect_stdout(None):
            exec(compile(moved(text, places), PAGE.name, "exec"), {})


def test_servers(project: Path) -> None:
    commands = [command for block in blocks(PAGE) for command in block.commands() if command.startswith("serve ")]
    assert len(commands) >= 3
    tried = 0
    for command in commands:
        if "--tls-key" in command or "@bf16@openvino" in command:  # see test_remote.py, and not on every processor
            continue
        words = [word for word in shlex.split(command)[1:] if word]
        with embedded_server(*words) as server:
            assert server.http
        tried += 1
    assert tried
