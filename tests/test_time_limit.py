"""Calls that do not return end with a message: stopped where that is possible, with the process where it is not."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.time_limit import TimeLimitError, current_limit, limit_calls, time_limit


@pytest.fixture
def short_limit():
    before = limit_calls(0.2)
    yield
    limit_calls(before)


def test_without_a_limit_a_call_may_last():
    before = limit_calls(None)
    with time_limit("a call", stop=pytest.fail):
        time.sleep(0.01)
    assert current_limit() is None
    assert limit_calls(before) is None
    assert current_limit() == before


def test_a_call_in_time_is_left_alone(short_limit):
    for _ in range(3):
        with time_limit("a call", stop=lambda: pytest.fail("stopped")):
            pass
    time.sleep(0.4)  # nothing comes after the end of a call
    with pytest.raises(KeyError), time_limit("a call", stop=lambda: pytest.fail("stopped")):
        raise KeyError


@pytest.mark.parametrize("fails", [True, False])
def test_a_call_that_can_be_stopped_raises(short_limit, fails):
    """One that only returns has not done its work either."""
    stopped = threading.Event()

    def call():
        with time_limit("the loop", stop=stopped.set):
            stopped.wait()
            if fails:
                raise RuntimeError("terminated")

    with pytest.raises(TimeLimitError, match=r"the loop did not return within 0\.2 s") as caught:
        call()
    assert "PROTOSEG_TIMEOUT" in caught.value.hint


def test_what_is_known_to_take_long_gets_more_time(short_limit):
    with time_limit("a build", times=1000, stop=lambda: pytest.fail("stopped")):
        time.sleep(0.5)


@pytest.mark.parametrize("forks", [False, True])
def test_a_call_that_cannot_be_stopped_ends_the_process(forks):
    program = f"""
import os, sys, time
from protoseg_deploy.time_limit import limit_calls, time_limit
limit_calls(0.2)
with time_limit("short"):
    pass
if {forks} and (child := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
with time_limit("reading a graph"):
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "Error: reading a graph did not return within 0.2 s: the program ends here" in done.stderr
    assert "--timeout" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("verb", ["predict", "evaluate", "bench", "verify", "export", "build"])
def test_verbs_that_run_artefacts_have_a_limit(verb: str, tmp_path: Path) -> None:
    runner = CliRunner()
    assert "--timeout" in runner.invoke(cli, [verb, "--help"]).output
    for wrong in ("0", "-1", "nan", "inf", "soon"):
        result = runner.invoke(cli, [verb, str(tmp_path), "--timeout", wrong])
        assert result.exit_code == 2
        assert "--timeout" in result.output
    assert runner.invoke(cli, [verb, str(tmp_path)], env={"PROTOSEG_TIMEOUT": "soon"}).exit_code == 2
    assert limit_calls(None) is None  # the limit of a verb ends with it
