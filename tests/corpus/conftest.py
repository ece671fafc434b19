"""One server and one set of healthy files for all cases; a folder for each case, removed after it."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.corpus.judging import Case, Place, judge
from tests.corpus.kits import Kits
from tests.corpus.launching import Ended, Launcher
from tests.made_once import session_folder

if os.name != "posix":
    collect_ignore_glob = ["test_*.py"]  # named pipes, links and forked processes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every sixteenth case of each file, unless PROTOSEG_WHOLE_CORPUS is set: `make test-corpus` runs all of them."""
    if "PROTOSEG_WHOLE_CORPUS" in os.environ or any("::" in argument for argument in config.args):
        return
    here = Path(__file__).parent
    seen: Counter[Path] = Counter()
    left_out = []
    for item in items:
        if item.path.parent == here:
            seen[item.path] += 1
            if seen[item.path] % 16 != 1:
                left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    out = set(left_out)
    items[:] = [item for item in items if item not in out]


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    with Launcher() as server:
        yield server


@pytest.fixture(scope="session")
def kits(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Kits:
    return Kits(session_folder(tmp_path_factory) / "corpus", launcher)


@pytest.fixture
def try_case(tmp_path: Path, kits: Kits, launcher: Launcher) -> Iterator[Callable[[Case], Ended]]:
    """Makes the inputs of a case, calls the command and judges it."""
    yield lambda case: judge(case, Place(tmp_path, kits), launcher)
    shutil.rmtree(tmp_path, ignore_errors=True)  # hundreds of runs and bundles
