"""What holds for every verb: options, signals, and errors of the machine."""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.cli.arguments import print_json
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.errors import ProtosegError

PROTOSEG = [sys.executable, "-m", "protoseg_deploy"]


def verbs(group=cli, names=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from verbs(command, (*names, name))
        else:
            yield (*names, name), command


VERBS = list(verbs())
SINGLE = [
    (names, option)
    for names, command in VERBS
    for option in command.params
    if isinstance(option, click.Option) and not option.multiple and not option.is_flag
]


def some_value(option):
    if isinstance(option.type, click.Choice):
        return str(option.type.choices[0])
    return "20" if isinstance(option.type, (click.IntRange, click.FloatRange)) else "64"


@pytest.mark.parametrize(("names", "option"), SINGLE, ids=lambda value: getattr(value, "name", None))
def test_an_option_with_one_value_is_not_given_twice(names, option, tmp_path):
    value = some_value(option)
    needed = [f"{tmp_path}"] * 3
    result = CliRunner().invoke(cli, [*names, *needed, option.opts[0], value, f"{option.opts[0]}={value}"])
    assert result.exit_code == 2
    assert f"{option.opts[-1]} is given twice" in result.stderr


@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
def test_a_number_that_is_none_is_refused_by_every_option(value):
    numbers = [(names, option) for names, option in SINGLE if isinstance(option.type, click.types.FloatParamType)]
    assert {option.name for _, option in numbers} >= {"max_drop", "timeout"}
    for names, option in numbers:
        result = CliRunner().invoke(cli, [*names, "x", option.opts[0], value])
        assert result.exit_code == 2, names
        assert option.opts[0] in result.stderr


def test_flags_may_be_repeated_and_verbs_have_options_enough_for_this_test_to_mean_something():
    assert len(SINGLE) > 40
    result = CliRunner().invoke(cli, ["recipe", "show", "demo", "--source", "--source"])
    assert result.exit_code == 0


def test_wherever_masks_are_given_so_is_their_template():
    options = {names: {option.name for option in command.params} for names, command in VERBS}
    finding = {("init",), ("split",)}  # masks by their names
    taking = [names for names, given in options.items() if "masks" in given and names not in finding]
    assert len(taking) == 7
    assert [names for names in taking if "mask_template" not in options[names]] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["build", "B", "--engine", "tensorrt", "--precision", "int8", "--precision", "fp32,fp16"],
            ("fp32", "fp16", "int8"),
        ),
        (["export", "R", "--bundle", "B", "--precision", "int8", "--precision=bf16"], ("bf16", "int8")),
        (["export", "R", "--bundle", "B"], ("fp32",)),
    ],
)
def test_precisions_add_up(arguments, expected):
    command = dict(VERBS)[arguments[:1][0],]
    with command.make_context("x", arguments[1:]) as context:
        assert context.params["precisions"] == expected


def test_other_lists_add_up_too(tmp_path):
    compare = dict(VERBS)["compare",]

    def parsed(*arguments):
        with compare.make_context("x", ["R", "--run", "x", *arguments]) as context:
            return context.params

    assert parsed("--seeds", "0,3", "--seeds", "5,")["seeds"] == (0, 3, 5)
    assert parsed("--seeds", "2")["seeds"] == (0, 1)
    for twice in (("3", "5"), ("3", "1,2"), ("1,", "1,"), ("9" * 5000,), ("9" * 15,)):
        with pytest.raises(click.BadParameter):
            parsed(*(part for text in twice for part in ("--seeds", text)))
    result = CliRunner().invoke(
        cli, ["compare", "demo", "--run", str(tmp_path), "--methods", "supervised", "--methods", "fixmatch,nonsense"]
    )
    assert "no method named 'nonsense'" in result.stderr
    result = CliRunner().invoke(cli, ["bench-train", "demo", "--method", "supervised", "--method", "nonsense"])
    assert "method.name: 'nonsense' is not one of" in result.stderr


def test_every_verb_is_one_that_knows_all_this():
    assert [names for names, command in VERBS if not isinstance(command, Verb)] == []


@pytest.mark.parametrize("names", [names for names, _ in VERBS], ids="-".join)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_every_verb_with_its_code_and_one_line(monkeypatch, names, number, code):
    monkeypatch.setattr(Verb, "parse_args", lambda self, ctx, args: args)
    monkeypatch.setattr(Verb, "invoke", lambda self, ctx: os.kill(os.getpid(), number) or time.sleep(5))
    before = signal.getsignal(number)
    result = CliRunner().invoke(cli, [*names])
    assert result.exit_code == code
    assert result.output == f"stopped by {number.name}\n"
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("ends_in", ["raise", "raise ImportError('not initialised')"])
def test_ctrl_c_while_libraries_load_shows_no_traceback(tmp_path, ends_in):
    loading = tmp_path / "loading"
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time\n"
        f"pathlib.Path({str(loading)!r}).touch()\n"
        f"try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    {ends_in}\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(
        [*PROTOSEG, "train", "demo", "--run", str(tmp_path / "run")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not loading.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate()
    assert process.returncode == 130
    assert said == "stopped by SIGINT\n"


def test_a_worker_that_is_forked_leaves_signals_to_the_verb(monkeypatch):
    def forks(self, ctx):
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else 1)
        assert os.waitpid(child, 0)[1] == 0

    monkeypatch.setattr(Verb, "invoke", forks)
    assert CliRunner().invoke(cli, ["recipe", "list"]).exit_code == 0


def test_a_signal_while_a_module_makes_its_classes_ends_with_its_code(tmp_path):
    (tmp_path / "interrupted.py").write_text(
        "import os, signal, time\n"
        "from unittest import mock\n"
        "from protoseg_deploy.cli import cli\n"
        "from protoseg_deploy.cli.verb import Verb\n"
        "code = 'os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)'\n"
        "mock.patch.object(Verb, 'invoke', lambda self, ctx: exec(code)).start()\n"
        "cli(['recipe', 'list'])\n"
    )
    path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
    result = subprocess.run(
        [sys.executable, "-m", "interrupted"], env={**os.environ, "PYTHONPATH": path}, capture_output=True
    )
    assert (result.returncode, result.stderr) == (143, b"stopped by SIGTERM\n")


def test_a_machine_without_a_place_for_temporary_files_is_named(monkeypatch):
    def loads_a_library(self, ctx):
        tempfile.mkdtemp()

    def none_there():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(Verb, "invoke", loads_a_library)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", none_there)
    result = CliRunner().invoke(cli, ["recipe", "list"])
    assert result.exit_code == 1
    assert "No usable temporary directory" in result.stderr
    assert "TMPDIR" in result.stderr


def test_more_threads_than_the_cores_can_bear_are_refused(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(Verb, "invoke", lambda self, ctx: print_json(ctx.params["threads"]))
    assert CliRunner().invoke(cli, ["bench", "x", "--threads", "16"]).stdout == "16\n"
    result = CliRunner().invoke(cli, ["bench", "x", "--threads", "17"])
    assert result.exit_code == 2
    assert "too many for 2 cores" in result.stderr


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory")])
def test_a_lack_of_memory_is_said_in_a_line(monkeypatch, error):
    def needs_much(self, ctx):
        raise error

    monkeypatch.setattr(Verb, "invoke", needs_much)
    result = CliRunner().invoke(cli, ["recipe", "list"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: not enough memory: ")


def test_a_path_that_cannot_be_is_a_usage_error_of_its_option():
    for arguments in (
        ["train", "demo", "--run", "x" * 300],
        ["predict", "x" * 300, "y", "--out", "z"],
        ["predict", "x", "y" * 300, "--out", "z"],
        ["evaluate", "x" * 300, "--recipe", "demo"],
        ["bench", "x/" * 3000],
        ["check", "x" * 300],
        ["check", "~nobody-of-that-name/x.yaml"],
        ["recipe", "show", "x\0y"],
        ["demo", "--out", "x" * 300],
        ["train", "demo", "--run", ""],
        ["predict", "", "x", "--out", "y"],
        ["predict", "x", "y", "--out", ""],
        ["export", "x", "--bundle", ""],
    ):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2, arguments
        assert isinstance(result.exception, SystemExit), arguments


def test_what_the_system_refuses_is_an_error_that_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(Verb, "invoke", lambda self, ctx: (tmp_path / "none" / "x").read_text())
    result = CliRunner().invoke(cli, ["recipe", "list"])
    assert result.exit_code == 1
    assert "none/x: No such file or directory" in result.stderr


def test_our_own_exit_codes_win_over_that_of_a_signal(monkeypatch):
    def saves_itself(self, ctx):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            error = ProtosegError("stopped; 3 of 5 images are done")
            error.exit_code = 130
            raise error from None

    monkeypatch.setattr(Verb, "invoke", saves_itself)
    result = CliRunner().invoke(cli, ["recipe", "list"])
    assert result.exit_code == 130
    assert "3 of 5 images are done" in result.stderr


def test_the_help_says_what_exit_codes_mean_and_close_matches_are_named():
    text = CliRunner().invoke(cli, ["--help"]).output
    for code in ("0  success", "1  failure", "2  invalid command line", "130  interrupted"):
        assert code in text
    assert "--resume" in CliRunner().invoke(cli, ["train", "--resum"]).stderr
