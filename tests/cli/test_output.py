"""What verbs print: on streams that are full, closed or gone, in whatever encoding, with names from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from rich.console import Console

from protoseg_deploy.cli import cli
from protoseg_deploy.cli.arguments import print_json, print_table
from protoseg_deploy.cli.verb import Verb
from tests.conftest import recipe_tree

PROTOSEG = [sys.executable, "-m", "protoseg_deploy"]


def test_a_reader_that_has_gone_is_no_error_to_speak_of():
    process = subprocess.Popen([*PROTOSEG, "recipe", "show", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    said = process.stderr.read()
    process.wait()
    assert said == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "show", "demo"], ["check", "demo", "--json"]])
def test_output_that_cannot_be_written_is_one_error(tmp_path, arguments, unbuffered):
    for stream in ("stdout", "stderr"):
        with Path("/dev/full").open("wb") as full:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
            result = subprocess.run(
                [*PROTOSEG, *arguments],
                **streams,
                cwd=tmp_path,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
        if stream == "stdout":
            assert result.returncode == 1
            assert result.stderr.endswith(b"cannot be written: No space left on device\n")
            assert result.stderr.count(b"\n") <= 3, "the message of the verb, if it has one, and this"
        else:
            assert result.returncode == (1 if "check" in arguments else 0)


@pytest.mark.skipif(os.name != "posix", reason="closed streams are what POSIX shells make")
def test_what_is_said_to_a_closed_stream_goes_nowhere(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        command = f'"$@" {closed}'
        shown = subprocess.run(
            ["sh", "-c", command, "sh", *PROTOSEG, "check", "demo", "--json"],
            capture_output=True,
            cwd=tmp_path,
            env=environment,
        )
        assert shown.returncode == 1, "there is no data"
        assert b"Traceback" not in shown.stderr
        assert closed == "2>&-" or shown.stdout == b""


@pytest.mark.skipif(os.name != "posix", reason="closed streams are what POSIX shells make")
def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    program = (
        "import os; from unittest import mock; from protoseg_deploy.cli import cli\n"
        "from protoseg_deploy.cli.verb import Verb\n"
        "def invoke(self, ctx):\n"
        "    with open('result', 'w') as file:\n"
        "        os.write(1, b'a library says'); os.write(2, b'a library warns'); file.write('mine')\n"
        "mock.patch.object(Verb, 'invoke', invoke).start(); cli(['recipe', 'list'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = ["sh", "-c", '"$@" <&- >&- 2>&-', "sh", sys.executable, "-c", program]
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    assert (tmp_path / "result").read_text() == "mine"


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONIOENCODING": "ascii:strict"},
        {"PYTHONIOENCODING": "utf-16"},
        {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=lambda variables: variables.get("PYTHONIOENCODING", "posix"),
)
def test_whatever_the_encoding_everything_is_said_in_it(variables):
    program = (
        "from unittest import mock; from protoseg_deploy.cli import cli; from protoseg_deploy.cli.verb import Verb\n"
        "from tests.cli.saying import say_everything\n"
        "mock.patch.object(Verb, 'invoke', lambda self, ctx: say_everything()).start(); cli(['recipe', 'list'])"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHONIO"))
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "LANG": "C.UTF-8", **variables},
        capture_output=True,
        cwd=Path(__file__).parents[2],
    )
    encoding = variables.get("PYTHONIOENCODING", "ascii").partition(":")[0]
    out, err = result.stdout.decode(encoding), result.stderr.decode(encoding)
    assert "Traceback" not in err
    assert result.returncode == 1
    assert "[/red][bold]\\x1b[31m" in out
    assert "\x1b" not in out + err
    assert "\\u202e" in out
    assert ("–" if encoding.startswith(("utf", "cp")) else "-") + " faults" in err
    assert "Error: " in err


def test_json_is_utf_8_for_every_reader(monkeypatch):
    name = os.fsdecode(b"stra\xdfe\x1b\x9b") + "ß[/red]\ud800\x9b"
    monkeypatch.setattr(Verb, "invoke", lambda self, ctx: print_json({"image": name, name: 1}))
    for charset in ("utf-8", "ascii", "latin-1"):
        result = CliRunner(charset=charset).invoke(cli, ["recipe", "list"])
        assert result.exit_code == 0
        text = result.stdout_bytes.decode("utf-8")
        assert not {"\x1b", "\x9b"} & set(text)
        assert json.loads(text)["image"] == "stra\\xdfe\x1b\\x9bß[/red]\\ud800\x9b"
        assert "ß" in text


def test_markup_in_names_is_text(tmp_path, monkeypatch):
    tree = recipe_tree(tmp_path)
    tree["data"]["classes"] = ["[/red]", "[bold]b", "[link=x]c"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    result = CliRunner().invoke(cli, ["recipe", "show", str(tmp_path / "mine.yaml")])
    assert "[/red]" in result.stdout
    printed = []
    monkeypatch.setattr(Console, "print", lambda self, table: printed.extend(table.columns[0].cells))
    print_table(["class"], [[name] for name in tree["data"]["classes"]])
    assert [str(cell) for cell in printed] == tree["data"]["classes"]
