"""Every command in README and docs is one that there is; those of README and tutorial are run, in order."""

import contextlib
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.benchmarking.latency import measure_interleaved
from protoseg_deploy.cli import bench_measuring, cli
from tests.conftest import draw_scene, recipe_tree, write_scenes

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
RUN = [ROOT / "README.md", ROOT / "docs/tutorial.md"]
_BLOCK = re.compile(r"(?P<marker><!-- (?P<reason>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)
_INLINE = re.compile(r"`(protoseg [a-z][^`]*)`")


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    reason: str
    """Why it is not run, such as ``needs a GPU``; empty: it is."""

    def commands(self) -> list[str]:
        """What follows ``protoseg``; prompts, comments and output are left out."""
        joined = self.text.replace("\\\n", " ")
        lines = [line.removeprefix("$ ").partition("  #")[0] for line in joined.splitlines()]
        return [found for line in lines if (found := _after_program(line))]


def _after_program(line: str) -> str:
    if line.startswith("torchrun "):
        return line.partition(" -m protoseg_deploy ")[2]
    return line.removeprefix("protoseg ") if line.startswith("protoseg ") else ""


def blocks(page: Path) -> list[Block]:
    matches = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["language"], match["text"], match["reason"] or "") for match in matches]


def parse(command: str) -> None:
    """Raises a click.UsageError where there is no such command, option or value."""
    words = shlex.split(command.partition(" > ")[0].partition(" | ")[0])
    group: click.Command = cli
    while isinstance(group, click.Group):
        name, words = words[0], words[1:]
        found = group.get_command(click.Context(group), name)
        assert found is not None, f"no command {name}"
        group = found
    with group.make_context(group.name, words):
        pass


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_are_ones_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = [command for block in blocks(page) for command in block.commands()]
    # In running text a command may be named with words in the place of its arguments, or cut short.
    commands += [
        inline.removeprefix("protoseg ").replace("\n", " ")
        for inline in _INLINE.findall(text)
        if not re.search(r"…|\.\.\.|\||\[", inline) and "--" in inline
    ]
    for command in commands:
        try:
            parse(command)
        except (click.MissingParameter, click.BadOptionUsage, click.exceptions.Exit):
            pass  # cut short, or --help
        except click.UsageError as error:
            pytest.fail(f"{page.name}: protoseg {command}: {error.message}")


def test_there_are_commands_to_run() -> None:
    assert all(sum(len(block.commands()) for block in blocks(page)) > 4 for page in RUN)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What a reader has who has followed a page so far, in small: a data set, a recipe, photographs."""
    for part, seed, count in (("labeled", 100, 6), ("unlabeled", 200, 9), ("val", 300, 6)):
        write_scenes(tmp_path / "demo/data" / part, seed, count, masks=part != "unlabeled")
    tree = recipe_tree(Path("demo/data"))
    tree["model"] = {"backbone": "test_resnet", "weights": "none", "decoder": "lraspp", "decoder_channels": 16}
    tree["method"] = {"name": "fixmatch", "confidence_threshold": 0.5}
    tree["train"] |= {"steps": 60, "lr": 0.01, "eval_every": 30, "checkpoint_every": 60, "log_every": 30}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    (tmp_path / "photos").mkdir()
    Image.fromarray(draw_scene(1)[0]).save(tmp_path / "photos/a.png")
    Image.fromarray(draw_scene(2)[0]).save(tmp_path / "photo.jpg")
    return tmp_path


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_commands_do_what_the_page_says(project: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shortly(*arguments: object, **options: object) -> object:  # not seconds for each runtime
        return measure_interleaved(*arguments, **{**options, "seconds": 0.0, "warmup_seconds": 0.05})

    monkeypatch.setattr(bench_measuring, "measure_interleaved", shortly)
    monkeypatch.chdir(project)
    python = []
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            python.append(block.text)
        for command in block.commands():
            words = shlex.split(command.partition(" > ")[0])
            result = CliRunner().invoke(cli, words)
            assert result.exit_code == 0, f"protoseg {command}\n{result.output}"
            if " > " in command:
                assert yaml.safe_load(result.stdout)["data"], command
    for text in python:  # snippets use what the commands have made
        with contextlib.redirect_stdout(None):
            exec(compile(text, page.name, "exec"), {})
