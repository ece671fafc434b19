"""A library that crashes, hangs, prints or raises takes nothing down but its own process."""

import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from protoseg_deploy.diagnostics.isolation import Processes


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Installs a module of one's own by its source."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name, source):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))

    return install


def test_versions_of_modules(library):
    library("sound", "__version__ = '1.2'\nprint('hello'); import sys; print('noise', file=sys.stderr)")
    library("broken", "raise RuntimeError('first line\\nsecond')")
    library("unlinked", "raise ImportError('libcudart.so.99: cannot open shared object file')")
    library("needing", "import not_there_either")
    library("leaving", "raise SystemExit('bye')")
    answer = Processes().ask("modules", "sound", "broken", "unlinked", "needing", "leaving", "not_there", "not_there.x")
    assert answer.kind == "answered"
    assert answer.facts == {
        "sound": {"version": "1.2"},
        "broken": {"error": "RuntimeError: first line"},
        "unlinked": {"error": "ImportError: libcudart.so.99: cannot open shared object file"},
        "needing": {"error": "needs not_there_either, which is not installed", "needs": "not_there_either"},
        "leaving": {"error": "SystemExit: bye"},
        "not_there": {"absent": True},
        "not_there.x": {"absent": True},
    }


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes (SIGSEGV)"),
        (
            "import os, sys; print('no such symbol', file=sys.stderr, flush=True); os.abort()",
            "SIGABRT): no such symbol",
        ),
        ("import os; os._exit(3)", "crashes (exit code 3)"),
    ],
)
def test_a_crash(library, source, said):
    library("tensorrt", source)
    answer = Processes().ask("engine", "tensorrt")
    assert answer.kind == "crashed"
    assert said in answer.error


def test_a_library_that_hangs_is_killed_with_what_it_started(library, tmp_path):
    mark = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(mark)!r}).touch(); time.sleep(0.01)"
    library(
        "openvino", f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(99)"
    )
    answer = Processes(seconds=3).ask("openvino")
    assert (answer.kind, answer.error) == ("late", "no answer within 3 s")
    assert mark.exists()
    mark.unlink()
    time.sleep(0.3)
    assert not mark.exists()


def test_those_under_way_can_be_stopped(library):
    library("openvino", "import time; time.sleep(99)")
    processes = Processes()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(processes.ask, "openvino")
        stopping = threading.Event()
        while not asked.done():
            processes.stop()
            stopping.wait(0.05)
    assert asked.result().kind == "crashed"


def test_an_absent_library_and_one_that_raises(library, monkeypatch):
    assert Processes().ask("engine", "no_such_engine").kind == "absent"
    library("pynvml", "def nvmlInit(): raise OSError('Driver/library version mismatch')")
    answer = Processes().ask("nvml")
    assert (answer.kind, answer.error) == ("failed", "OSError: Driver/library version mismatch")


def test_the_working_folder_adds_no_modules(tmp_path, monkeypatch):
    (tmp_path / "yaml.py").write_text("raise RuntimeError('mine')")
    monkeypatch.chdir(tmp_path)
    assert "version" in Processes().ask("modules", "yaml").facts["yaml"]


def test_providers_compute(library):
    answer = Processes().ask("provider", "CPUExecutionProvider")
    assert answer.facts == {"used": "CPUExecutionProvider", "right": True}
    assert Processes().ask("provider", "NoSuchExecutionProvider").kind in ("failed", "answered")
    assert "CPUExecutionProvider" in Processes().ask("onnxruntime").facts["providers"]


def test_a_python_that_cannot_be_started(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    answer = Processes().ask("images")
    assert answer.kind == "failed"
    assert "No such file" in answer.error
