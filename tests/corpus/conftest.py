"""One server and one set of healthy files for all cases; a folder for each case, removed after it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.corpus.judging import Case, Place, judge
from tests.corpus.kits import Kits
from tests.corpus.launching import Ended, Launcher

if os.name != "posix":
    collect_ignore_glob = ["test_*.py"]  # named pipes, links and forked processes


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with Launcher() as server:
        yield server


@pytest.fixture(scope="session")
def kits(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Kits:
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "corpus"
    folder.mkdir(exist_ok=True)
    return Kits(folder, launcher)


@pytest.fixture
def try_case(tmp_path: Path, kits: Kits, launcher: Launcher) -> Iterator[Callable[[Case], Ended]]:
    """Makes the inputs of a case, calls the command and judges it."""
    yield lambda case: judge(case, Place(tmp_path, kits), launcher)
    shutil.rmtree(tmp_path, ignore_errors=True)  # hundreds of runs and bundles
