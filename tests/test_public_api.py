"""What scripts and shells rely on: a change of it is a decision, not an accident."""

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import protoseg_deploy as pd
from protoseg_deploy.cli import cli

PACKAGE = Path(pd.__file__).parent
SURFACE = Path(__file__).with_name("surface.txt")
NAMES = [
    "Bundle", "Method", "ProtosegError", "Recipe", "Runtime", "__version__", "build_method", "evaluate",
    "export_bundle", "folder_samples", "load_recipe", "open_runtime", "register_decoder", "register_method", "train",
    "verify_bundle",
]  # fmt: skip
COMMANDS = [
    "demo", "init", "convert", "recipe", "split", "check", "train", "replay", "compare", "distill", "evaluate",
    "export", "build", "verify", "predict", "serve", "serve-repo", "bench", "load", "recommend", "bench-train",
    "suggest", "report", "kit", "doctor", "completion",
]  # fmt: skip


def test_names_of_the_package() -> None:
    assert sorted(pd.__all__) == NAMES
    for name in NAMES:
        assert getattr(pd, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        pd.absent  # noqa: B018
    stub = (PACKAGE / "__init__.pyi").read_text()
    assert all(f"{name} as {name}" in stub or name == "__version__" for name in NAMES)
    assert (PACKAGE / "py.typed").is_file()


def test_the_package_imports_nothing_heavy() -> None:
    program = "import sys, protoseg_deploy; print([m for m in ('torch', 'onnx', 'numpy', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]", done.stderr


def commands(group: click.Group, prefix: str = "") -> dict[str, click.Command]:
    context = click.Context(group)
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[f"{prefix}{name}"] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{name} ")
    return found


def surface() -> str:
    """Every command with its arguments and options; hidden ones are promised to nobody."""
    lines = []
    for name, command in commands(cli).items():
        arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
        options = [p.opts[0] for p in command.params if isinstance(p, click.Option) and not p.hidden]
        lines.append(" ".join([name, *arguments, *options]))
    return "\n".join(lines) + "\n"


def test_the_command_line_is_what_was_promised() -> None:
    """Changed on purpose: ``python -m tests.test_public_api > tests/surface.txt``."""
    assert surface() == SURFACE.read_text()


def test_commands_and_their_summaries() -> None:
    found = commands(cli)
    assert [name for name in found if " " not in name] == COMMANDS
    assert [name for name in found if name.startswith("recipe ")] == ["recipe explain", "recipe list", "recipe show"]
    lines = CliRunner().invoke(cli, ["--help"]).output.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines[1:] if line.endswith("...")]


@pytest.mark.parametrize(("verb", "meant"), [("trian", "train"), ("benchtrain", "bench-train"), ("exprot", "export")])
def test_a_misspelt_command_is_named_with_the_right_one(verb: str, meant: str) -> None:
    result = CliRunner().invoke(cli, [verb, "--json"])
    assert result.exit_code == 2
    assert f"No such command '{verb}'. Did you mean '{meant}'?" in result.stderr


def test_a_command_like_no_other_gets_no_suggestion() -> None:
    assert CliRunner().invoke(cli, ["xyzzy"]).stderr.endswith("No such command 'xyzzy'.\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_completes(shell: str) -> None:
    script = CliRunner().invoke(cli, ["completion", shell], prog_name="protoseg").output
    assert "_PROTOSEG_COMPLETE" in script
    assert "protoseg" in script


def test_what_a_shell_gets_when_it_completes() -> None:
    environment = {"_PROTOSEG_COMPLETE": "bash_complete", "COMP_WORDS": "protoseg ex", "COMP_CWORD": "1"}
    result = CliRunner().invoke(cli, [], env=environment, prog_name="protoseg", complete_var="_PROTOSEG_COMPLETE")
    assert result.output.split() == ["plain,export"]


if __name__ == "__main__":
    print(surface(), end="")
